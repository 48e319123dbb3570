// What a child process tells is taken only in the form that an honest one gives it.
#include "base/strict_json.h"

#include <gtest/gtest.h>

#include <string>

namespace t6 {
namespace {

TEST(ToldJson, TakesIntegersAndTexts) {
  const auto told = parse_told_json(R"({"a":[1,-2,18446744073709551615],"b":"1.5","c":{"d":true}})");
  ASSERT_TRUE(told);
  EXPECT_EQ(told->at("a").at(2).get<uint64_t>(), 18446744073709551615u);
}

TEST(ToldJson, RefusesWhatNoHonestChildTells) {
  for (const char* text : {"", "{", "1.5", R"({"a":1e30})", R"({"a":{"b":[0,[429496294967296294967296]]}})",
                           R"({"a":1,"a":2})", "[[[[[[[[[1]]]]]]]]]"}) {
    EXPECT_FALSE(parse_told_json(text)) << text;
  }
  EXPECT_FALSE(parse_told_json(std::string(size_t{2} << 20, '[')));
}

}  // namespace
}  // namespace t6
