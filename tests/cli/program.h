// Runs the built program as a user would, in a folder of the test's own.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "support/program_run.h"

namespace t6::test {

// The built program; that of the environment variable T6_TEST_PROGRAM where the tests run away from their build.
inline const char* program() {
  const char* named = std::getenv("T6_TEST_PROGRAM");
  return named != nullptr && *named != '\0' ? named : T6_PROGRAM;
}

class Program : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "t6-cli-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  // Starts the program with `arguments` in folder(); standard input is `input`.
  pid_t start(const std::vector<std::string>& arguments, const std::string& input = "/dev/null") {
    started_ = seconds_now();
    return start_program(program(), arguments, folder_, {}, input);
  }
  Outcome finish(pid_t child) const { return finish_program(child, folder_, started_); }
  Outcome run(const std::vector<std::string>& arguments) { return finish(start(arguments)); }

  std::string read(const std::string& name) const {
    std::ifstream file(folder_ / name, std::ios::binary);
    std::ostringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = folder_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
  }
  // Names of everything below folder(), but for the outputs of run().
  std::vector<std::string> files() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_)) {
      const std::string name = std::filesystem::relative(entry.path(), folder_).string();
      if (name != kStandardOutput && name != kStandardError) names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
  }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
  double started_ = 0;  // of the program started last
};

// A few thousand sentences that a tiny model can learn something of; a function of `sentences`.
inline std::string small_text(int sentences = 400) {
  const char* subjects[] = {"the cat", "a small dog", "the old man", "my sister", "the queen"};
  const char* verbs[] = {"sees", "likes", "follows", "finds", "draws"};
  const char* objects[] = {"the river", "a red house", "the garden", "an apple", "the long road"};
  std::string text;
  unsigned state = 1;
  const auto next = [&] { return (state = state * 1664525 + 1013904223) >> 16; };
  for (int i = 0; i < sentences; ++i) {
    text += std::string(subjects[next() % 5]) + " " + verbs[next() % 5] + " " + objects[next() % 5] + ".\n";
  }
  return text;
}

}  // namespace t6::test
