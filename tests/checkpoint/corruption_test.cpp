// R5: whatever is damaged in the newest checkpoint is found, named, and the next older one is used.
#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>

#include "checkpoint/checkpoint.h"
#include "checkpoint/ranks_support.h"
#include "support/promise.h"

namespace t6::checkpoint {
namespace {

constexpr size_t kBlock = 4096;
constexpr size_t kCut = 512;

class Corruption : public ScratchTest {
 protected:
  Corruption() : ScratchTest(Place::memory) {}
  void SetUp() override {
    ScratchTest::SetUp();
    level_ = spdlog::get_level();
    spdlog::set_level(spdlog::level::off);  // hundreds of warnings; they are also in Loaded::warnings
    save(folder_, 1, old_.state(1));
    save(folder_, 2, new_.state(2));
  }
  void TearDown() override {
    spdlog::set_level(level_);
    ScratchTest::TearDown();
  }

  // Loads; true when the newest was used, false after falling back with a warning that names `culprit`.
  bool loads_newest(const std::string& culprit) {
    const Model loaded(50, rows());
    const std::optional<Loaded> back = load(folder_, loaded.state());
    if (!back) return false;
    if (back->step == 2) {
      EXPECT_TRUE(back->warnings.empty());
      EXPECT_TRUE(loaded.equals(new_));
      EXPECT_EQ(back->scalars, new_.state(2).scalars);
      return true;
    }
    EXPECT_EQ(back->step, 1);
    EXPECT_TRUE(loaded.equals(old_));
    EXPECT_EQ(back->scalars, old_.state(1).scalars);
    EXPECT_EQ(back->warnings.size(), 1u);
    EXPECT_TRUE(contains(back->warnings.at(0), culprit)) << back->warnings.at(0);
    return false;
  }

  static int64_t rows() { return test::figure(64, 1024); }  // 30 or 400 KB
  const Model old_{1, rows()}, new_{10, rows()};
  const fs::path newest() const { return folder_ / "step-00000002"; }
  const std::vector<std::string> files_{"rank-00000.h5", "manifest.json"};
  spdlog::level::level_enum level_{};
};

TEST_F(Corruption, AFlipInEveryBlockIsFound) {
  int flips = 0;
  for (const std::string& file : files_) {
    const std::string good = read_bytes(newest() / file);
    for (size_t block = 0; block < good.size(); block += kBlock) {
      for (int i = 0; i < 3; ++i) {
        const Philox random(block, RngPurpose::test);
        const size_t offset = block + random.below(2 * i, std::min(kBlock, good.size() - block));
        flip_bit(newest() / file, offset, static_cast<int>(random.below(2 * i + 1, 8)));
        EXPECT_FALSE(loads_newest(file)) << file << " at " << offset;
        ++flips;
        write_bytes(newest() / file, good);
      }
    }
  }
  EXPECT_GT(flips, 20);
  EXPECT_TRUE(loads_newest("")) << "control: undone damage is no damage";
  test::measured("R5", "{0} of {0} bit flips, 3 in every 4 KiB block, found and the older checkpoint used", flips);
}

// What Fletcher32 does not see: 0x0000 and 0xFFFF are the same to it.
TEST_F(Corruption, AWordOfOnesForAWordOfZerosIsFound) {
  const fs::path dir = folder_ / "zeros";
  const Tensor zeros = Tensor::zeros({1000}, DType::f32), loaded = Tensor::zeros({1000}, DType::f32);
  State state;
  state.tensors = {tensor_ref("params/x", zeros)};
  save(dir, 1, state);
  const fs::path file = dir / "step-00000001/rank-00000.h5";
  std::string bytes = read_bytes(file);
  const size_t data = bytes.find(std::string(4000, '\0'));
  ASSERT_NE(data, std::string::npos);
  bytes[data + 2000] = bytes[data + 2001] = '\xff';
  write_bytes(file, bytes);
  EXPECT_EQ(error_of([&] { load(dir, state); }).code(), ExitCode::checkpoint);
  EXPECT_NE(verify(dir).at(0).damage, "");
}

TEST_F(Corruption, EveryTruncationIsFound) {
  int cuts = 0;
  for (const std::string& file : files_) {
    const std::string good = read_bytes(newest() / file);
    for (size_t size = 0; size < good.size(); size += kCut) {
      write_bytes(newest() / file, good.substr(0, size));
      EXPECT_FALSE(loads_newest(file)) << file << " cut to " << size;
      ++cuts;
    }
    write_bytes(newest() / file, good + '\0');
    EXPECT_FALSE(loads_newest(file)) << file << " with a byte more";
    write_bytes(newest() / file, good);
  }
  EXPECT_TRUE(loads_newest(""));
  test::measured("R5", "{0} of {0} truncations, one every 512 bytes", cuts);
}

TEST_F(Corruption, MissingAndMisplacedFilesAreFound) {
  for (const std::string& file : files_) {
    const std::string good = read_bytes(newest() / file);
    fs::remove(newest() / file);
    EXPECT_FALSE(loads_newest(file)) << file << " missing";
    io::make_directories(newest() / file);
    EXPECT_FALSE(loads_newest(file)) << file << " is a folder";
    io::remove_all(newest() / file);
    ASSERT_EQ(::mkfifo((newest() / file).c_str(), 0644), 0);
    EXPECT_FALSE(loads_newest(file)) << file << " is a pipe";
    fs::remove(newest() / file);
    write_bytes(newest() / file, good);
  }
  EXPECT_TRUE(loads_newest(""));
}

TEST_F(Corruption, SwappedFilesAndFoldersAreFound) {
  const fs::path oldest = folder_ / "step-00000001", aside = folder_ / "aside";
  const Model loaded(50, rows());
  const auto swap = [&](const fs::path& a, const fs::path& b) {
    fs::rename(a, aside);
    fs::rename(b, a);
    fs::rename(aside, b);
  };
  for (const std::string& file : files_) {
    swap(newest() / file, oldest / file);
    const Error error = error_of([&] { load(folder_, loaded.state()); });
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    EXPECT_TRUE(contains(error.what(), "none of the 2 checkpoints")) << error.what();
    swap(newest() / file, oldest / file);
  }
  swap(newest() / "rank-00000.h5", newest() / "manifest.json");
  EXPECT_FALSE(loads_newest("step-00000002"));
  swap(newest() / "rank-00000.h5", newest() / "manifest.json");
  swap(newest(), oldest);
  EXPECT_EQ(error_of([&] { load(folder_, loaded.state()); }).code(), ExitCode::checkpoint);
  swap(newest(), oldest);
  EXPECT_TRUE(loads_newest(""));
  test::measured("R5", "missing, empty, misplaced and swapped files too");
}

// Every byte of the file is right by the manifest, and a tensor is not what was saved: only its own hash can tell.
TEST_F(Corruption, ATensorThatIsNotItsOwnIsFound) {
  const fs::path manifest = newest() / "manifest.json";
  std::string text = read_bytes(manifest);
  const size_t tensor = text.find(",\"", text.find("\"parts\"")) + 2;
  text[tensor] = text[tensor] == '0' ? '1' : '0';
  const size_t tail = text.find("\"manifest_xxh3\"");
  const std::string body = text.substr(0, tail);
  write_bytes(manifest, body + "\"manifest_xxh3\": \"" + io::hash_bytes(std::as_bytes(std::span(body))) + "\"\n}\n");
  EXPECT_FALSE(loads_newest("params/embedding.weight"));
  EXPECT_EQ(verify(newest(), false).at(0).damage, "");
  EXPECT_TRUE(contains(verify(newest(), true).at(0).damage, "params/embedding.weight"));
}

TEST_F(Corruption, NothingIsAppliedBeforeAllIsVerified) {
  flip_bit(newest() / "rank-00000.h5", fs::file_size(newest() / "rank-00000.h5") - 1, 0);
  const Model loaded(50, rows()), untouched(50, rows());
  EXPECT_EQ(error_of([&] { load_one(newest(), loaded.state()); }).code(), ExitCode::checkpoint);
  EXPECT_TRUE(loaded.equals(untouched));
}

TEST_F(Corruption, NoneIntactIsAnErrorThatNamesEach) {
  flip_bit(newest() / "rank-00000.h5", 100, 0);
  fs::remove(folder_ / "step-00000001/manifest.json");
  const Model loaded(50, rows());
  const Error error = error_of([&] { load(folder_, loaded.state()); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  EXPECT_TRUE(contains(error.what(), "step-00000002/rank-00000.h5") &&
              contains(error.what(), "step-00000001/manifest.json"))
      << error.what();
  const std::vector<Entry> entries = list(folder_);
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_TRUE(contains(entries[0].damage, "missing"));
}

// The same damage in the files of two ranks, found by two others.
class CorruptionOfRanks : public Corruption {
 protected:
  void SetUp() override {
    Corruption::SetUp();
    io::remove_all(folder_);
    save_in_parts(folder_, 1, old_, 2, 100);
    save_in_parts(folder_, 2, new_, 2, 100);
  }

  // True when both loaded the newest, false after both fell back with the same warning, which names `culprit`.
  bool both_load_newest(const std::string& culprit) {
    const Parts parts(2, old_, 60);
    std::array<std::optional<Loaded>, 2> loaded;
    expect_no_error(run_ranks(2, [&](const Peers& peers) {
      loaded.at(static_cast<size_t>(peers.rank)) = load(folder_, parts.state(peers.rank), {}, peers);
    }));
    if (!loaded[0] || !loaded[1]) {
      ADD_FAILURE() << "nothing loaded";
      return false;
    }
    EXPECT_EQ(loaded[0]->step, loaded[1]->step);
    EXPECT_EQ(loaded[0]->warnings, loaded[1]->warnings);
    EXPECT_EQ(loaded[0]->scalars, loaded[1]->scalars);
    const bool newest_used = loaded[0]->step == 2;
    EXPECT_TRUE(parts.are(newest_used ? new_ : old_));
    EXPECT_EQ(loaded[0]->warnings.size(), newest_used ? 0u : 1u);
    for (const std::string& warning : loaded[0]->warnings) EXPECT_TRUE(contains(warning, culprit)) << warning;
    return newest_used;
  }
  const std::vector<std::string> rank_files_{"rank-00000.h5", "rank-00001.h5", "manifest.json"};
};

TEST_F(CorruptionOfRanks, AFlipInEveryBlockIsFound) {
  int flips = 0;
  for (const std::string& file : rank_files_) {
    const std::string good = read_bytes(newest() / file);
    for (size_t block = 0; block < good.size(); block += kBlock) {
      const Philox random(block, RngPurpose::test);
      for (int i = 0; i < 3; ++i) {
        const size_t offset = block + random.below(2 * i, std::min(kBlock, good.size() - block));
        flip_bit(newest() / file, offset, static_cast<int>(random.below(2 * i + 1, 8)));
        EXPECT_FALSE(both_load_newest(file)) << file << " at " << offset;
        ++flips;
        write_bytes(newest() / file, good);
      }
    }
  }
  EXPECT_GT(flips, 20);
  EXPECT_TRUE(both_load_newest("")) << "control: undone damage is no damage";
}

TEST_F(CorruptionOfRanks, MissingCutAndMisplacedFilesAreFound) {
  for (const std::string& file : rank_files_) {
    const std::string good = read_bytes(newest() / file);
    fs::remove(newest() / file);
    EXPECT_FALSE(both_load_newest(file)) << file << " missing";
    io::make_directories(newest() / file);
    EXPECT_FALSE(both_load_newest(file)) << file << " is a folder";
    io::remove_all(newest() / file);
    for (const size_t size : {size_t{0}, size_t{512}, good.size() / 2, good.size() - 1}) {
      write_bytes(newest() / file, good.substr(0, size));
      EXPECT_FALSE(both_load_newest(file)) << file << " cut to " << size;
    }
    write_bytes(newest() / file, good);
  }
  const fs::path one = newest() / "rank-00000.h5", other = newest() / "rank-00001.h5", aside = folder_ / "aside";
  fs::rename(one, aside);
  fs::rename(other, one);
  fs::rename(aside, other);
  EXPECT_FALSE(both_load_newest("rank-0000"));
  fs::rename(one, aside);
  fs::rename(other, one);
  fs::rename(aside, other);
  EXPECT_TRUE(both_load_newest(""));
}

// Of the same step by the same ranks in the same sizes, from another run.
TEST_F(CorruptionOfRanks, FilesOfTwoSavesMixedAreFound) {
  const Model third(20);
  save_in_parts(folder_ / "other", 2, third, 2, 100);
  for (const std::string& file : rank_files_) {
    const std::string good = read_bytes(newest() / file);
    const std::string foreign = read_bytes(folder_ / "other/step-00000002" / file);
    write_bytes(newest() / file, foreign);
    if (file != "manifest.json") {
      EXPECT_EQ(good.size(), foreign.size());
      EXPECT_FALSE(both_load_newest(file));
    } else {
      EXPECT_FALSE(both_load_newest("rank-0000"));
    }
    write_bytes(newest() / file, good);
  }
  EXPECT_TRUE(both_load_newest(""));
}

// A manifest that was signed again after its parts were changed.
TEST_F(CorruptionOfRanks, PartsThatDoNotMakeUpTheirTensorAreFound) {
  const fs::path path = newest() / "manifest.json";
  const std::string good = read_bytes(path);
  const auto sign = [&](const std::string& body) {
    write_bytes(path, body + "\"manifest_xxh3\": \"" + io::hash_bytes(std::as_bytes(std::span(body))) + "\"\n}\n");
  };
  const std::string body = good.substr(0, good.find("\"manifest_xxh3\""));
  const size_t first = body.find("[0,0,100,"), second = body.find(",[1,100,100,"), third = body.find(",[0,200,100,");
  ASSERT_NE(third, std::string::npos);
  sign(body.substr(0, second) + body.substr(third));
  EXPECT_FALSE(both_load_newest("elements [100, 200) are in no part"));
  sign(body.substr(0, second) + body.substr(second, third - second) + body.substr(second));
  EXPECT_FALSE(both_load_newest("elements from 100 are in more than one part"));
  sign(body.substr(0, first) + "[0,0,101," + body.substr(first + 9));
  EXPECT_FALSE(both_load_newest("elements from 100 are in more than one part"));
  // Parts that fit, of which the files know nothing.
  sign(body.substr(0, second) + ",[0,100,100," + body.substr(second + 12));
  EXPECT_FALSE(both_load_newest("@100"));
  sign(body);
  EXPECT_TRUE(both_load_newest(""));
}

}  // namespace
}  // namespace t6::checkpoint
