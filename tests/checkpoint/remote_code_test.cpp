#include "checkpoint/remote_code.h"

#include <gtest/gtest.h>
#include <zlib.h>

#include <nlohmann/json.hpp>

#include "base/io.h"

namespace t6::checkpoint {
namespace {

TEST(RemoteCode, IsTheFilesOfTheSources) {
  for (const RemoteCodeFile& file : remote_code_files()) {
    EXPECT_EQ(file.text, io::read_text(io::fs::path(T6_SOURCE_DIR) / "src/checkpoint/remote_code" / file.name));
  }
  EXPECT_EQ(remote_code_files()[0].name, "configuration_t6.py");
  EXPECT_EQ(remote_code_files()[1].name, "modeling_t6.py");
}

// This suite runs no Python: scripts/interop.sh, when every test with every version of transformers has passed, notes
// with which files. A change of one of them has to pass there before it passes here.
TEST(RemoteCode, HasPassedWithTransformersAsItIs) {
  const auto passed =
      nlohmann::json::parse(io::read_text(io::fs::path(T6_SOURCE_DIR) / "tests/data/interop/remote_code.json"));
  EXPECT_GE(passed.at("transformers").size(), 3u);
  for (const RemoteCodeFile& file : remote_code_files()) {
    const auto* bytes = reinterpret_cast<const Bytef*>(file.text.data());
    EXPECT_EQ(passed.at("crc32").at(std::string(file.name)), ::crc32(0, bytes, static_cast<uInt>(file.text.size())))
        << file.name << " has changed since scripts/interop.sh passed: run it, and commit remote_code.json";
  }
}

}  // namespace
}  // namespace t6::checkpoint
