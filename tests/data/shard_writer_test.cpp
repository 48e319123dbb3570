#include "data/shard_writer.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "data/shard.h"
#include "shard_files.h"

namespace t6::data {
namespace {

using testing::contains;
using testing::error_of;
using testing::read_file;
using testing::some_ids;
using testing::TempFolder;
using testing::write_file;

constexpr uint32_t kEndOfText = 50256;

ShardWriterOptions options_for(const fs::path& folder) {
  return {.folder = folder,
          .prefix = "fineweb",
          .shard_tokens = 1000,
          .val_tokens = 1000,
          .val_fraction = 1,
          .vocabulary = 50257,
          .end_of_text = kEndOfText,
          .tokenizer_hash = "cafe",
          .source = "a test"};
}

// Writes documents of varied lengths; `all` gets every token in order and `starts` where documents begin.
ShardSummary write_documents(const ShardWriterOptions& options, size_t documents, std::vector<uint32_t>& all,
                             std::vector<uint64_t>& starts) {
  all.clear();
  starts.clear();
  ShardWriter writer(options);
  for (size_t i = 0; i < documents; ++i) {
    const std::vector<uint32_t> ids = some_ids(i * 37 % 500, kEndOfText, static_cast<uint32_t>(i));
    starts.push_back(all.size());
    all.push_back(options.end_of_text);
    all.insert(all.end(), ids.begin(), ids.end());
    writer.add_document(ids);
    EXPECT_EQ(writer.tokens(), all.size());
  }
  return writer.finish();
}

std::vector<std::string> names(const fs::path& folder) {
  std::vector<std::string> found;
  for (const auto& entry : fs::directory_iterator(folder)) found.push_back(entry.path().filename().string());
  std::sort(found.begin(), found.end());
  return found;
}

TEST(ShardWriter, EveryFormReadsBackInFineWebsLayout) {
  for (ShardForm form : {ShardForm::bin, ShardForm::hdf5}) {
    for (uint32_t width : {2, 4}) {
      TempFolder folder;
      ShardWriterOptions options = options_for(folder.path());
      options.form = form;
      options.width = width;
      std::vector<uint32_t> all;
      std::vector<uint64_t> starts;
      const ShardSummary summary = write_documents(options, 50, all, starts);
      const std::string end = form == ShardForm::bin ? ".bin" : ".h5";
      ASSERT_EQ(summary.shards.size(), (all.size() + 999) / 1000);
      EXPECT_EQ(summary.tokens, all.size());
      EXPECT_EQ(summary.documents, 50u);
      EXPECT_EQ(summary.val_tokens, 1000u);
      EXPECT_EQ(summary.shards[0].path, folder / ("fineweb_val_000000" + end));
      EXPECT_EQ(summary.shards[1].path, folder / ("fineweb_train_000001" + end));
      EXPECT_EQ(names(folder.path()).size(), summary.shards.size());
      std::vector<uint32_t> read;
      std::vector<uint64_t> read_starts;
      for (const WrittenShard& written : summary.shards) {
        const TokenShard shard = TokenShard::open(written.path, 50257);
        EXPECT_EQ(shard.width(), width);
        EXPECT_TRUE(shard.size() == 1000 || &written == &summary.shards.back());
        for (uint64_t start : shard.document_offsets()) read_starts.push_back(read.size() + start);
        read.resize(read.size() + shard.size());
        shard.read(std::span(read).last(shard.size()), 0);
        EXPECT_EQ(shard.tokenizer_hash(), form == ShardForm::hdf5 ? "cafe" : "");
      }
      EXPECT_EQ(read, all);
      EXPECT_EQ(read_starts, form == ShardForm::hdf5 ? starts : std::vector<uint64_t>());
    }
  }
}

TEST(ShardWriter, BytesAreThoseOfTheFormat) {
  TempFolder folder;
  ShardWriterOptions options = options_for(folder.path());
  options.shard_tokens = options.val_tokens = 3;
  ShardWriter writer(options);
  writer.add_document(std::vector<uint32_t>{1, 2, 258});
  writer.finish();
  EXPECT_EQ(read_file(folder / "fineweb_val_000000.bin"), testing::bin16({kEndOfText, 1, 2}));
  EXPECT_EQ(read_file(folder / "fineweb_train_000001.bin"), testing::bin16({258}));
}

TEST(ShardWriter, ValidationIsAShareOfASmallCorpusAndAShardOfALargeOne) {
  struct Case {
    uint64_t val_tokens;
    double fraction;
    uint64_t expected;  // of 10,000 tokens
  };
  for (const Case& c : {Case{1000, 0.05, 500},
                        {1000, 0.033, 330},
                        {1000, 0.00001, 1},
                        {300, 0.05, 300},
                        {1000, 1, 1000},
                        {1000, 0, 0},
                        {0, 0.05, 0},
                        {3000, 0.25, 2500}}) {
    TempFolder folder;
    ShardWriterOptions options = options_for(folder.path());
    options.val_tokens = c.val_tokens;
    options.val_fraction = c.fraction;
    std::vector<uint32_t> all;
    {
      ShardWriter writer(options);
      for (int i = 0; i < 100; ++i) {
        const std::vector<uint32_t> ids = some_ids(99, kEndOfText, i);
        all.push_back(kEndOfText);
        all.insert(all.end(), ids.begin(), ids.end());
        writer.add_document(ids);
      }
      const ShardSummary summary = writer.finish();
      EXPECT_EQ(summary.val_tokens, c.expected) << c.fraction;
      EXPECT_EQ(summary.shards.front().validation, c.expected > 0);
      const WrittenShard& first_train = summary.shards[c.expected > 0 ? 1 : 0];
      EXPECT_EQ(first_train.path.filename(), "fineweb_train_000001.bin");
      std::vector<uint32_t> read;
      for (const WrittenShard& written : summary.shards) {
        const TokenShard shard = TokenShard::open(written.path, 50257);
        read.resize(read.size() + shard.size());
        shard.read(std::span(read).last(shard.size()), 0);
      }
      EXPECT_EQ(read, all) << c.fraction;
      EXPECT_EQ(names(folder.path()).size(), summary.shards.size()) << "a temporary file was left";
    }
  }
}

TEST(ShardWriter, NothingIsNamedBeforeFinishNorLeftWithoutIt) {
  for (double fraction : {0.05, 1.0}) {
    TempFolder folder;
    {
      ShardWriterOptions options = options_for(folder.path());
      options.val_fraction = fraction;
      ShardWriter writer(options);
      for (int i = 0; i < 100; ++i) writer.add_document(some_ids(99, 100));
      for (const std::string& name : names(folder.path())) EXPECT_EQ(name.front(), '.') << name;
      EXPECT_FALSE(names(folder.path()).empty());
    }
    EXPECT_TRUE(names(folder.path()).empty());
  }
}

TEST(ShardWriter, ExistingShardsAreReplacedOnlyWhenAllowed) {
  TempFolder folder;
  write_file(folder / ".fineweb.t6.spool.tmp", "of a killed run");
  write_file(folder / "fineweb_train_000007.bin", "old");
  write_file(folder / "fineweb_train_notes.bin", "not a shard");
  write_file(folder / "other_train_000001.bin", "another set");
  ShardWriterOptions options = options_for(folder.path());
  const Error error = error_of([&] { ShardWriter writer(options); });
  EXPECT_EQ(error.code(), ExitCode::usage);
  EXPECT_TRUE(contains(error.what(), "fineweb_train_000007.bin")) << error.what();
  options.overwrite = true;
  std::vector<uint32_t> all;
  std::vector<uint64_t> starts;
  { ShardWriter abandoned(options); }
  EXPECT_EQ(read_file(folder / "fineweb_train_000007.bin"), "old");
  write_documents(options, 13, all, starts);
  EXPECT_EQ(names(folder.path()),
            (std::vector<std::string>{"fineweb_train_000001.bin", "fineweb_train_000002.bin", "fineweb_train_notes.bin",
                                      "fineweb_val_000000.bin", "other_train_000001.bin"}));
}

// Whichever call that changes the disk fails, the error names the cause and the folder is empty afterwards.
TEST(ShardWriter, AFailingDiskLeavesNothingBehind) {
  for (ShardForm form : {ShardForm::bin, ShardForm::hdf5}) {
    for (double fraction : {0.05, 1.0}) {
      for (int failing = 0;; ++failing) {
        TempFolder folder;
        ShardWriterOptions options = options_for(folder.path());
        options.form = form;
        options.val_fraction = fraction;
        int calls = 0;
        io::set_fault_hook([&](io::DiskCall, const fs::path&, size_t&) { return calls++ == failing ? ENOSPC : 0; });
        std::string message;
        try {
          ShardWriter writer(options);
          for (int i = 0; i < 40; ++i) writer.add_document(some_ids(99, 100));
          writer.finish();
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ExitCode::io);
          message = error.what();
        }
        io::set_fault_hook({});
        if (failing >= calls) {
          EXPECT_TRUE(message.empty() && failing > 10) << message;
          break;
        }
        EXPECT_TRUE(contains(message, "No space left")) << "call " << failing << ": " << message;
        EXPECT_TRUE(names(folder.path()).empty()) << "call " << failing << " left " << names(folder.path()).front();
      }
    }
  }
}

TEST(ShardWriter, EveryFileIsWrittenThroughTheDiskCallsThatTestsCanStop) {
  for (const ShardForm form : {ShardForm::bin, ShardForm::hdf5}) {
    TempFolder folder;
    ShardWriterOptions options = options_for(folder.path());
    options.form = form;
    std::map<std::string, uint64_t> written;  // bytes asked for, by what the file is called in the end
    io::set_fault_hook([&](io::DiskCall call, const fs::path& path, size_t& bytes) {
      const std::string name = path.filename().string();
      if (call == io::DiskCall::write) written[name.substr(name.find(".t6.") + 4)] += bytes;
      return 0;
    });
    ShardWriter writer(options);
    for (int i = 0; i < 40; ++i) writer.add_document(some_ids(99, 100));
    const ShardSummary summary = writer.finish();
    io::set_fault_hook({});
    for (const WrittenShard& shard : summary.shards) {
      const uint64_t documents = form == ShardForm::hdf5 ? 8 * shard.tokens / 100 : 0;
      // Beside the data: the header, or some 1,000 bytes of HDF5's own.
      EXPECT_GE(written[shard.path.filename().string() + ".tmp"], 2 * shard.tokens + documents + 800) << shard.path;
    }
  }
}

std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const std::string& name : names(folder)) files[name] = read_file(folder / name);
  return files;
}

// Four training shards in the place of others: some names are in both sets, some in one.
void replace_shards(const fs::path& folder) {
  ShardWriterOptions options = options_for(folder);
  options.overwrite = true;
  options.val_tokens = 0;
  ShardWriter writer(options);
  for (int i = 0; i < 40; ++i) writer.add_document(some_ids(99, 100));
  writer.finish();
}
std::map<std::string, std::string> old_shards(const fs::path& folder) {
  std::vector<uint32_t> all;
  std::vector<uint64_t> starts;
  write_documents(options_for(folder), 26, all, starts);
  write_file(folder / "fineweb_train_000009.bin", "one more");
  return contents(folder);
}

TEST(ShardWriter, AFailingDiskLeavesTheShardsThatWereToBeReplaced) {
  for (int failing = 0;; ++failing) {
    TempFolder folder;
    const auto before = old_shards(folder.path());
    ASSERT_GE(before.size(), 5u);
    int calls = 0;
    bool renamed_all = false;  // from then on only old files are deleted
    io::set_fault_hook([&](io::DiskCall call, const fs::path& path, size_t&) {
      if (calls++ == failing) return ENOSPC;
      renamed_all |= call == io::DiskCall::unlink && path.extension() == ".old";
      return 0;
    });
    bool failed = false;
    try {
      replace_shards(folder.path());
    } catch (const Error& error) {
      failed = true;
      EXPECT_EQ(error.code(), ExitCode::io);
    }
    io::set_fault_hook({});
    if (failing >= calls) break;
    if (failed) {
      EXPECT_FALSE(renamed_all);
      EXPECT_EQ(contents(folder.path()), before) << "call " << failing;
    } else {
      // The new set is complete, and what could not be deleted is hidden.
      for (const auto& [name, bytes] : contents(folder.path())) {
        EXPECT_TRUE(name.front() == '.' || (name.starts_with("fineweb_train_00000") && name < "fineweb_train_000005"))
            << "call " << failing << " left " << name;
      }
    }
  }
}

TEST(ShardWriter, AKillWhileShardsAreReplacedLosesNoneOfThem) {
  TempFolder reference;
  replace_shards(reference.path());
  const auto replaced = contents(reference.path());
  ASSERT_EQ(replaced.size(), 4u);
  int cut_short = 0;
  for (int call = 0;; ++call) {
    TempFolder folder;
    const auto before = old_shards(folder.path());
    const pid_t child = ::fork();
    if (child == 0) {
      int calls = 0;
      io::set_fault_hook([&](io::DiskCall, const fs::path&, size_t&) {
        if (calls++ == call) ::_exit(137);
        return 0;
      });
      replace_shards(folder.path());
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
    ASSERT_EQ(WEXITSTATUS(status), 137);
    auto after = contents(folder.path());
    const bool complete = std::includes(after.begin(), after.end(), replaced.begin(), replaced.end());
    for (const auto& [name, bytes] : before) {
      EXPECT_TRUE(complete || after[name] == bytes || after[".fineweb.t6." + name + ".old"] == bytes)
          << "call " << call << " lost " << name;
    }
    // Without leave to overwrite the writer refuses, and says so; with it the replacement is finished.
    const bool hidden =
        std::any_of(after.begin(), after.end(), [](const auto& f) { return f.first.ends_with(".old"); });
    cut_short += hidden && !complete ? 1 : 0;
    if (hidden || !after.empty()) {
      EXPECT_EQ(error_of([&] { ShardWriter writer(options_for(folder.path())); }).code(), ExitCode::usage);
    }
    replace_shards(folder.path());
    EXPECT_EQ(contents(folder.path()), replaced) << "call " << call;
  }
  EXPECT_GE(cut_short, 5);
}

TEST(ShardWriter, NeedsTokensToTrainOn) {
  TempFolder folder;
  EXPECT_EQ(error_of([&] { ShardWriter(options_for(folder.path())).finish(); }).code(), ExitCode::data);
  const Error error = error_of([&] {
    ShardWriter writer(options_for(folder.path()));
    writer.add_document(some_ids(100, 100));
    writer.finish();
  });
  EXPECT_EQ(error.code(), ExitCode::data);
  EXPECT_TRUE(contains(error.what(), "101 tokens")) << error.what();
  EXPECT_TRUE(names(folder.path()).empty());
}

TEST(ShardWriter, RejectsWhatCannotBe) {
  TempFolder folder;
  const auto code = [&](const std::function<void(ShardWriterOptions&)>& change) {
    ShardWriterOptions options = options_for(folder / "new");
    change(options);
    return error_of([&] { ShardWriter writer(options); }).code();
  };
  EXPECT_EQ(code([](ShardWriterOptions& o) { o.vocabulary = 65537, o.width = 2; }), ExitCode::usage);
  EXPECT_EQ(code([](ShardWriterOptions& o) { o.width = 3; }), ExitCode::usage);
  EXPECT_EQ(code([](ShardWriterOptions& o) { o.shard_tokens = 0; }), ExitCode::usage);
  EXPECT_EQ(code([](ShardWriterOptions& o) { o.shard_tokens = uint64_t{1} << 31; }), ExitCode::usage);
  EXPECT_EQ(code([](ShardWriterOptions& o) { o.val_fraction = 1.5; }), ExitCode::usage);
  EXPECT_EQ(code([](ShardWriterOptions& o) { o.val_fraction = std::nan(""); }), ExitCode::usage);
  EXPECT_EQ(code([](ShardWriterOptions& o) { o.prefix = "../x"; }), ExitCode::usage);
  EXPECT_EQ(code([](ShardWriterOptions& o) { o.prefix = ""; }), ExitCode::usage);
  EXPECT_EQ(code([](ShardWriterOptions& o) { o.end_of_text = o.vocabulary; }), ExitCode::internal);
  EXPECT_FALSE(fs::exists(folder / "new"));

  ShardWriterOptions wide = options_for(folder.path());
  wide.vocabulary = 65537;
  ShardWriter writer(wide);
  EXPECT_EQ(error_of([&] { writer.add_document(std::vector<uint32_t>{65537}); }).code(), ExitCode::internal);
}

}  // namespace
}  // namespace t6::data
