#include "checkpoint/remote_code.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace t6::checkpoint
