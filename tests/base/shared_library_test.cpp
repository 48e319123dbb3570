#include "base/shared_library.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error.h"

namespace t6 {
namespace {

constexpr const char* kVariable = "T6_TEST_SHARED_LIBRARY";

class SharedLibraries : public ::testing::Test {
 protected:
  void SetUp() override { ::unsetenv(kVariable); }
  void TearDown() override { ::unsetenv(kVariable); }
};

std::string failure(auto&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  ADD_FAILURE() << "expected an Error";
  return {};
}

TEST_F(SharedLibraries, TakesTheFirstThatLoads) {
  const SharedLibrary maths("mathematics", kVariable, {"libt6_is_not_there.so.1", "libm.so.6", "libc.so.6"});
  EXPECT_EQ(maths.name(), "libm.so.6");
  EXPECT_EQ(reinterpret_cast<double (*)(double)>(maths.function("sqrt"))(9.0), 3.0);
}

TEST_F(SharedLibraries, SaysWhatWasTried) {
  const std::string text = failure([] {
    SharedLibrary("mathematics", kVariable, {"libt6_a.so.1", "/nowhere/libt6_b.so"});
  });
  for (const char* part : {"mathematics", kVariable, "libt6_a.so.1", "/nowhere/libt6_b.so"}) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }
  const SharedLibrary maths("mathematics", kVariable, {"libm.so.6"});
  EXPECT_NE(failure([&] { maths.function("t6_no_such_function"); }).find("t6_no_such_function"), std::string::npos);
}

TEST_F(SharedLibraries, TheVariableNamesTheOnlyFile) {
  ::setenv(kVariable, "/nowhere/libchosen.so", 1);
  const std::string text = failure([] { SharedLibrary("mathematics", kVariable, {"libm.so.6"}); });
  EXPECT_NE(text.find("/nowhere/libchosen.so"), std::string::npos) << text;
  EXPECT_EQ(text.find("libm.so.6"), std::string::npos) << text;
  ::setenv(kVariable, "libm.so.6", 1);
  EXPECT_EQ(SharedLibrary("mathematics", kVariable, {"libt6_a.so.1"}).name(), "libm.so.6");
}

}  // namespace
}  // namespace t6
