#include "base/io.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <vector>

#include "base/error.h"

namespace t6::io {
namespace {

class Io : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / fmt::format("t6-io-{}", ::getpid());
    io::remove_all(folder_);
    make_directories(folder_);
  }
  void TearDown() override {
    set_fault_hook({});
    io::remove_all(folder_);
  }
  fs::path folder_;
};

TEST_F(Io, HashesInPiecesAsWhole) {
  const std::string text(3'000'000, 'x');
  const auto bytes = std::as_bytes(std::span(text));
  Hasher hasher;
  hasher.update(bytes.first(7));
  hasher.update(bytes.subspan(7));
  EXPECT_EQ(hasher.hex(), hash_bytes(bytes));
  write_text_atomically(folder_ / "x", text);
  EXPECT_EQ(hash_file(folder_ / "x"), hash_bytes(bytes));
}

TEST_F(Io, RemovesTreesButNotWhatLinksPointAt) {
  make_directories(folder_ / "keep");
  write_text_atomically(folder_ / "keep/file", "kept");
  make_directories(folder_ / "tree/a/b");
  write_text_atomically(folder_ / "tree/a/b/file", "gone");
  fs::create_directory_symlink(folder_ / "keep", folder_ / "tree/link");
  io::remove_all(folder_ / "tree");
  EXPECT_FALSE(fs::exists(folder_ / "tree"));
  EXPECT_EQ(read_text(folder_ / "keep/file"), "kept");
  EXPECT_NO_THROW(io::remove_all(folder_ / "never there"));
}

TEST_F(Io, CreateNewRefusesAnExistingFile) {
  File file = File::create_new(folder_ / "x");
  file.write_at(std::as_bytes(std::span("abc", 3)), 2);
  std::vector<std::byte> back(5);
  file.read_at(back, 0);
  EXPECT_EQ(back[4], std::byte{'c'});
  EXPECT_THROW(File::create_new(folder_ / "x"), Error);
}

TEST_F(Io, FaultHookSeesCallsInOrderAndInjects) {
  std::vector<std::string> calls;
  set_fault_hook([&](DiskCall call, const fs::path& path, size_t&) {
    calls.push_back(std::string(name_of(call)) + " " + path.filename().string());
    return 0;
  });
  write_text_atomically(folder_ / "x", "text");
  const std::string parent = folder_.filename().string();
  EXPECT_EQ(calls, (std::vector<std::string>{"create x.tmp", "write x.tmp", "sync x.tmp", "close x.tmp", "rename x.tmp",
                                             "sync_directory " + parent}));
  for (size_t stop = 0; stop < calls.size(); ++stop) {
    size_t count = 0;
    set_fault_hook([&](DiskCall, const fs::path&, size_t&) { return count++ == stop ? ENOSPC : 0; });
    try {
      write_text_atomically(folder_ / "x", "other");
      FAIL() << "expected an error at " << calls[stop];
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::io);
      EXPECT_NE(std::string(error.what()).find("No space left"), std::string::npos) << error.what();
    }
  }
}

TEST_F(Io, EachFolderMadeIsDurable) {
  std::vector<std::string> calls;
  set_fault_hook([&](DiskCall call, const fs::path& path, size_t&) {
    calls.push_back(std::string(name_of(call)) + " " + path.filename().string());
    return 0;
  });
  const std::string parent = folder_.filename().string();
  make_directories(folder_ / "a/b");
  const std::vector<std::string> expected{"make_directory a", "sync_directory " + parent, "make_directory b",
                                          "sync_directory a"};
  EXPECT_EQ(calls, expected);
  make_directories(folder_ / "a/b");
  EXPECT_EQ(calls, expected) << "nothing was made the second time";
  set_fault_hook({});
  make_directories(folder_ / "c/d/");
  EXPECT_TRUE(fs::is_directory(folder_ / "c/d"));
  write_text_atomically(folder_ / "file", "x");
  EXPECT_THROW(make_directories(folder_ / "file"), Error);
  EXPECT_THROW(make_directories(folder_ / "file/x"), Error);
}

TEST_F(Io, ExistsAndListFolderFailAsInputOutput) {
  make_directories(folder_ / "b");
  write_text_atomically(folder_ / "c", "x");
  write_text_atomically(folder_ / "A", "x");
  EXPECT_EQ(list_folder(folder_), (std::vector<std::string>{"A", "b", "c"}));
  EXPECT_TRUE(io::exists(folder_ / "b"));
  EXPECT_TRUE(io::exists(folder_ / "c"));
  EXPECT_FALSE(io::exists(folder_ / "d"));
  EXPECT_FALSE(io::exists(folder_ / "c" / "d"));
  const fs::path too_long = folder_ / std::string(300, 'x');
  const std::vector<std::function<void()>> failing = {[&] { io::exists(too_long); }, [&] { list_folder(too_long); },
                                                      [&] { list_folder(folder_ / "d"); },
                                                      [&] { list_folder(folder_ / "c"); }};
  for (const auto& call : failing) {
    try {
      call();
      ADD_FAILURE() << "expected an error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::io);
      EXPECT_NE(std::string(error.what()).find(folder_.string()), std::string::npos) << error.what();
    }
  }
}

TEST_F(Io, ShortWritesAreContinued) {
  set_fault_hook([](DiskCall call, const fs::path&, size_t& bytes) {
    if (call == DiskCall::write) bytes = std::min<size_t>(bytes, 3);
    return 0;
  });
  write_text_atomically(folder_ / "x", "0123456789");
  EXPECT_EQ(read_text(folder_ / "x"), "0123456789");
}

}  // namespace
}  // namespace t6::io
