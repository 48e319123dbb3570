#include "base/log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/io.h"

namespace t6 {
namespace {

TEST(Log, QuietSilencesTheTerminalButNotTheFile) {
  const auto before = spdlog::default_logger();
  const auto path = std::filesystem::path(testing::TempDir()) / ("t6_log_" + std::to_string(::getpid()));
  testing::internal::CaptureStderr();
  log::start(true);
  EXPECT_TRUE(log::quiet());
  log::add_file(path);
  log::info("an everyday line");
  log::warn("a warning");
  log::start(false);
  EXPECT_FALSE(log::quiet());
  log::info("said aloud");
  spdlog::set_default_logger(before);
  const std::string terminal = testing::internal::GetCapturedStderr();
  EXPECT_EQ(terminal.find("everyday"), std::string::npos) << terminal;
  EXPECT_NE(terminal.find("warning: a warning"), std::string::npos) << terminal;
  EXPECT_NE(terminal.find("info: said aloud"), std::string::npos) << terminal;
  const std::string file = io::read_text(path);
  EXPECT_NE(file.find(" info: an everyday line\n"), std::string::npos) << file;
  EXPECT_NE(file.find(" warning: a warning\n"), std::string::npos) << file;
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace t6
