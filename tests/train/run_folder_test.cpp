#include "train/run_folder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "base/build_info.h"
#include "base/error.h"
#include "train/environment.h"

namespace t6::train {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

class RunFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::path(testing::TempDir()) / ("t6_run_" + std::to_string(::getpid())) / "a" / "b";
    fs::remove_all(root_.parent_path().parent_path());
  }
  void TearDown() override { fs::remove_all(root_.parent_path().parent_path()); }

  fs::path root_;
};

TEST_F(RunFolderTest, MakesTheFolder) {
  const RunFolder folder = RunFolder::open(root_);
  EXPECT_TRUE(fs::is_directory(root_ / "checkpoints"));
  EXPECT_TRUE(fs::is_directory(root_ / "tensorboard"));
  EXPECT_EQ(folder.paths().metrics(), root_ / "metrics.jsonl");
}

// A first start that fails leaves nothing; one that wrote its config, and a folder that was there before, stay.
TEST_F(RunFolderTest, AFolderThatWasNotUsedIsGone) {
  { const RunFolder folder = RunFolder::open(root_); }
  EXPECT_FALSE(fs::exists(root_));
  { RunFolder::open(root_).write_config("a: 1\n"); }
  EXPECT_TRUE(fs::exists(root_ / "resolved.yaml"));
  fs::remove(root_ / "resolved.yaml");
  { const RunFolder folder = RunFolder::open(root_); }
  EXPECT_TRUE(fs::exists(root_));
}

TEST_F(RunFolderTest, LinksWithinTheFolderAreRefused) {
  const fs::path outside = root_.parent_path() / "outside";
  fs::create_directories(outside);
  const auto write = [](const fs::path& path, const std::string& text) { io::File::create(path).write_all(text); };
  for (const char* name : {"checkpoints", "tensorboard", "train.log", "run.lock"}) {
    fs::create_directories(root_);
    write(outside / "victim", "precious");
    const bool is_folder = name[0] == 'c' || name[1] == 'e';
    fs::create_symlink(is_folder ? outside : outside / "victim", root_ / name);
    try {
      RunFolder::open(root_);
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::io);
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("symbolic link"), std::string::npos) << error.what();
    }
    EXPECT_EQ(io::read_text(outside / "victim"), "precious");
    fs::remove_all(root_);
  }
}

TEST_F(RunFolderTest, ASecondTrainerIsRefusedAtOnceAndToldWho) {
  int to_parent[2], to_child[2];
  ASSERT_EQ(::pipe(to_parent), 0);
  ASSERT_EQ(::pipe(to_child), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    const RunFolder folder = RunFolder::open(root_);
    char byte = 'x';
    (void)!::write(to_parent[1], &byte, 1);
    (void)!::read(to_child[0], &byte, 1);
    ::_exit(0);  // without destructors, as a kill
  }
  char byte;
  ASSERT_EQ(::read(to_parent[0], &byte, 1), 1);
  const auto start = std::chrono::steady_clock::now();
  try {
    RunFolder::open(root_);
    ADD_FAILURE() << "two trainers share a folder";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    EXPECT_NE(std::string(error.what()).find(root_.string()), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("process " + std::to_string(child)), std::string::npos) << error.what();
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  ASSERT_EQ(::write(to_child[1], &byte, 1), 1);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_NO_THROW(RunFolder::open(root_)) << "the lock outlived its holder";
  for (const int fd : {to_parent[0], to_parent[1], to_child[0], to_child[1]}) ::close(fd);
}

TEST_F(RunFolderTest, KeepsEarlierConfigsThatDiffered) {
  const RunFolder folder = RunFolder::open(root_);
  folder.write_config("a: 1\n");
  folder.write_config("a: 1\n");
  EXPECT_FALSE(fs::exists(root_ / "resolved.yaml.1"));
  folder.write_config("a: 2\n");
  folder.write_config("a: 3\n");
  EXPECT_EQ(io::read_text(root_ / "resolved.yaml"), "a: 3\n");
  EXPECT_EQ(io::read_text(root_ / "resolved.yaml.1"), "a: 1\n");
  EXPECT_EQ(io::read_text(root_ / "resolved.yaml.2"), "a: 2\n");
  // Killed between the copy and the new file: the copy is there, the file is the old one.
  io::write_text_atomically(root_ / "resolved.yaml.3", "a: 3\n");
  folder.write_config("a: 4\n");
  EXPECT_EQ(io::read_text(root_ / "resolved.yaml"), "a: 4\n");
  EXPECT_FALSE(fs::exists(root_ / "resolved.yaml.4"));
}

TEST_F(RunFolderTest, KeepsEarlierEnvironmentsOnlyWhenTheMachineOrProgramDiffered) {
  const RunFolder folder = RunFolder::open(root_);
  const std::vector<std::string> arguments{"t6", "train"};
  Json environment = describe_environment(arguments, {{"onednn", "2.6.3"}});
  folder.write_environment(environment);
  environment["date"] = "2001-01-01T00:00:00Z";
  environment["process"] = 1;
  folder.write_environment(environment);
  EXPECT_FALSE(fs::exists(root_ / "env.json.1"));
  environment["libraries"]["onednn"] = "3.0.0";
  folder.write_environment(environment);
  EXPECT_EQ(Json::parse(io::read_text(root_ / "env.json.1"))["libraries"]["onednn"], "2.6.3");
  EXPECT_EQ(Json::parse(io::read_text(root_ / "env.json"))["libraries"]["onednn"], "3.0.0");
  io::write_text_atomically(root_ / "env.json", "{torn");
  folder.write_environment(environment);
  EXPECT_EQ(io::read_text(root_ / "env.json.2"), "{torn");
}

TEST(Environment, SaysWhatThisIs) {
  const std::vector<std::string> arguments{"t6", "train", "--config", "a b.yaml"};
  const Json environment = describe_environment(arguments, {{"onednn", "2.6.3"}});
  EXPECT_EQ(environment["t6"]["version"], build_info::version());
  EXPECT_FALSE(environment["t6"]["commit"].get<std::string>().empty());
  EXPECT_NE(environment["t6"]["flags"].get<std::string>().find("-std=c++20"), std::string::npos);
  EXPECT_EQ(environment["t6"]["flags"].get<std::string>().find("$<"), std::string::npos) << environment["t6"]["flags"];
  EXPECT_GE(environment["cpu"]["threads"].get<int>(), 1);
  EXPECT_LE(environment["cpu"]["threads_allowed"].get<int>(), environment["cpu"]["threads"].get<int>());
  EXPECT_GT(environment["memory"]["total"].get<uint64_t>(), uint64_t{1} << 26);
  EXPECT_EQ(environment["libraries"]["onednn"], "2.6.3");
  EXPECT_TRUE(environment["libraries"].contains("hdf5"));
  EXPECT_GE(environment["threads"]["omp_max_threads"].get<int>(), 1);
  EXPECT_EQ(environment["command"][3], "a b.yaml");
  EXPECT_EQ(environment["date"].get<std::string>().size(), 20U);
  EXPECT_EQ(environment["host"].get<std::string>().empty(), false);
  EXPECT_FALSE(lasting_environment(environment).contains("date"));
  EXPECT_TRUE(lasting_environment(environment).contains("cpu"));
}

}  // namespace
}  // namespace t6::train
