// Checkpoints of many ranks: saved by W, loaded by V; one outcome for all.
#include <spdlog/spdlog.h>

#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "checkpoint/ranks_support.h"

namespace t6::checkpoint {
namespace {

class CheckpointRanks : public ScratchTest {
 protected:
  CheckpointRanks() : ScratchTest(Place::memory) {}
  void SetUp() override {
    ScratchTest::SetUp();
    level_ = spdlog::get_level();
    spdlog::set_level(spdlog::level::off);
  }
  void TearDown() override {
    spdlog::set_level(level_);
    ScratchTest::TearDown();
  }
  spdlog::level::level_enum level_{};
};

// Slices of some elements, and such that cut through chunks and leave ranks without any of a tensor.
TEST_F(CheckpointRanks, AnyNumberSavesAndAnyNumberLoads) {
  struct Case {
    int64_t rows;
    std::array<int64_t, 2> slices;
  };
  for (const Case& c : {Case{64, {17, 601}}, Case{9'000, {100'003, 70'001}}}) {
    const auto& rows = c.rows;
    const auto& slices = c.slices;
    const Model saved(1, rows);
    for (int world = 1; world <= 4; ++world) {
      const fs::path dir = folder_ / fmt::format("{}-{}", rows, world);
      SaveOptions options;
      options.facts = {{"config", "hash"}};
      expect_no_error(run_ranks(world, [&](const Peers& peers) {
        const State state = part_of(saved, peers.rank, world, slices[0], 7);
        const Saved result = save(dir, 7, state, options, peers);
        EXPECT_EQ(result.path, dir / "step-00000007");
        EXPECT_GT(result.bytes, 0u);
        EXPECT_TRUE(result.warnings.empty());
      }));
      for (int loading = 1; loading <= 4; ++loading) {
        const Parts parts(loading, saved, slices[1]);
        expect_no_error(run_ranks(loading, [&](const Peers& peers) {
          const std::optional<Loaded> back = load(dir, parts.state(peers.rank), {}, peers);
          ASSERT_TRUE(back);
          EXPECT_EQ(back->step, 7);
          EXPECT_EQ(back->scalars, saved.state(7).scalars);
          EXPECT_EQ(back->facts, options.facts);
          EXPECT_TRUE(back->warnings.empty());
        }));
        EXPECT_TRUE(parts.are(saved)) << world << " -> " << loading;
      }
      if (world == 1) {  // as one rank stores it when nothing is divided: arrays of several dimensions
        save(folder_ / "whole", 7, saved.state(7));
        for (int loading = 2; loading <= 4; ++loading) {
          const Parts parts(loading, saved, slices[0]);
          expect_no_error(run_ranks(loading, [&](const Peers& peers) {
            EXPECT_EQ(load(folder_ / "whole", parts.state(peers.rank), {}, peers)->step, 7);
          }));
          EXPECT_TRUE(parts.are(saved)) << "whole -> " << loading;
        }
      }
      // Whole, by one and by each of several.
      const Model whole = blank(saved);
      EXPECT_EQ(load(dir, whole.state())->step, 7);
      EXPECT_TRUE(whole.equals(saved)) << world;
      const std::vector<Model> each{blank(saved), blank(saved)};
      expect_no_error(run_ranks(2, [&](const Peers& peers) {
        load_one(dir / "step-00000007", each.at(static_cast<size_t>(peers.rank)).state(), {}, peers);
      }));
      EXPECT_TRUE(each[0].equals(saved) && each[1].equals(saved)) << world;
      EXPECT_EQ(verify(dir, true).at(0).damage, "");
    }
  }
}

TEST_F(CheckpointRanks, WhatIsShownDoesNotDependOnThem) {
  Model model(1, 200);
  std::vector<float> values(3000);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i) * 1.3f);
  model.add("params/sine", Tensor::from<float>({30, 100}, std::span<const float>(values)));
  save(folder_ / "1", 5, model.state(5));
  const Inspected one = inspect(folder_ / "1");
  EXPECT_EQ(one.world, 1);
  for (int world = 2; world <= 4; ++world) {
    const fs::path dir = folder_ / std::to_string(world);
    save_in_parts(dir, 5, model, world, 101);
    const Inspected many = inspect(dir);
    EXPECT_EQ(many.world, world);
    EXPECT_EQ(to_json(many)["world"], world);
    EXPECT_EQ(list(dir).at(0).world, world);
    EXPECT_EQ(many.scalars, one.scalars);
    ASSERT_EQ(many.tensors.size(), one.tensors.size());
    for (size_t i = 0; i < one.tensors.size(); ++i) {
      const TensorFacts &a = one.tensors[i], &b = many.tensors[i];
      EXPECT_EQ(a.name, b.name) << "the order is the model's";
      EXPECT_EQ(a.shape, b.shape);
      EXPECT_EQ(a.norm, b.norm) << a.name;  // bit for bit
      EXPECT_EQ(a.min, b.min);
      EXPECT_EQ(a.max, b.max);
      EXPECT_EQ(a.nan_count, b.nan_count);
      EXPECT_EQ(a.infinite_count, b.infinite_count);
      EXPECT_EQ(a.parts, 1u);
    }
    EXPECT_GE(many.tensors.back().parts, 30u);
    EXPECT_EQ(to_json(many)["tensors"].back()["parts"], many.tensors.back().parts);
    EXPECT_EQ(list(dir).at(0).tensor_count, one.tensors.size());
  }
}

// Several whole tensors on one rank and none on another are a division, too.
TEST_F(CheckpointRanks, WholeTensorsMayBeDividedAmongThem) {
  const Model model(1), loaded(50);
  expect_no_error(run_ranks(3, [&](const Peers& peers) {
    State state = model.state(), mine;
    mine.scalars = state.scalars;
    for (size_t i = 0; i < state.tensors.size(); ++i) {
      if (static_cast<int>(i % 2) == peers.rank) mine.tensors.push_back(state.tensors[i]);
    }
    save(folder_, 1, mine, {}, peers);
  }));
  ASSERT_TRUE(load(folder_, loaded.state()));
  EXPECT_TRUE(loaded.equals(model));
  const Model each(60);
  expect_no_error(run_ranks(2, [&](const Peers& peers) {
    State state = each.state(), mine;
    for (size_t i = 0; i < state.tensors.size(); ++i) {
      if (static_cast<int>(i / 3) == peers.rank) mine.tensors.push_back(state.tensors[i]);
    }
    load(folder_, mine, {}, peers);
  }));
  EXPECT_TRUE(each.equals(model));
}

TEST_F(CheckpointRanks, OneTensorRefAtATimeIsHeld) {
  const int64_t numel = 400'000;
  const Tensor big = Tensor::zeros({numel}, DType::f32);
  const auto state_of = [&](const Peers& peers, size_t& most) {
    State state;
    for (int i = 0; i < 20; ++i) {
      TensorRef ref;
      ref.name = fmt::format("params/{}", i);
      ref.shape = Shape{numel};
      ref.begin = peers.rank * numel / peers.world;
      ref.count = (peers.rank + 1) * numel / peers.world - ref.begin;
      ref.get = [&most, count = ref.count] {
        most = std::max(most, memory::usage().in_use);
        return Tensor::zeros({count}, DType::f32);
      };
      ref.set = [&most](const Tensor&) { most = std::max(most, memory::usage().in_use); };
      state.tensors.push_back(ref);
    }
    return state;
  };
  const size_t before = memory::usage().in_use;
  for (const int world : {1, 2}) {
    std::vector<size_t> most(2);
    expect_no_error(run_ranks(world, [&](const Peers& peers) {
      save(folder_, 1, state_of(peers, most[static_cast<size_t>(peers.rank)]), {}, peers);
    }));
    expect_no_error(run_ranks(world, [&](const Peers& peers) {
      load(folder_, state_of(peers, most[static_cast<size_t>(peers.rank)]), {}, peers);
    }));
    // Threads: all ranks' tensors are counted.
    EXPECT_LE(std::max(most[0], most[1]), before + 4 * numel) << world;
    EXPECT_GE(std::max(most[0], most[1]), before + 4 * numel / world) << world;
  }
}

TEST_F(CheckpointRanks, DifferencesFromTheModelAreThoseOfAllTogether) {
  const Model model(1);
  save_in_parts(folder_, 1, model, 3, 100);
  // A tensor that only one rank knows is known.
  expect_no_error(run_ranks(2, [&](const Peers& peers) {
    const Model own(1);
    State state = own.state();
    if (peers.rank == 0) state.tensors.erase(state.tensors.begin() + 1);
    load(folder_, state, {}, peers);
  }));
  Model other(1);
  other.names[2] = "params/unknown";
  const auto error = common_error(run_ranks(2, [&](const Peers& peers) {
    State state = other.state();
    if (peers.rank == 1) state.tensors[1].shape = Shape{32};
    load(folder_, state, {}, peers);
  }));
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ExitCode::checkpoint);
  for (const char* part : {"3 differences", "params/blocks.0.norm.weight is bf16 [24] there, expected bf16 [32]",
                           "params/unknown is not in the checkpoint", "params/scale is not in the model"}) {
    EXPECT_TRUE(contains(error->what(), part)) << error->what();
  }
}

TEST_F(CheckpointRanks, RanksThatSeeOtherFoldersAreTold) {
  const Model model(1), loaded(50), untouched(50);
  save(folder_ / "a", 1, model.state());
  save(folder_ / "a", 2, model.state());
  io::make_directories(folder_ / "c");
  for (const char* other : {"b", "c"}) {
    for (const auto& error : run_ranks(3, [&](const Peers& peers) {
           load(folder_ / (peers.rank == 1 ? other : "a"), loaded.state(), {}, peers);
         })) {
      ASSERT_TRUE(error);
      EXPECT_EQ(error->code(), ExitCode::checkpoint);
      EXPECT_TRUE(contains(error->what(), "rank 0 sees step-00000001, step-00000002, rank 1 sees none"));
    }
  }
  // Each has its own disk: the part of the other is not where the manifest is.
  const auto saved = run_ranks(2, [&](const Peers& peers) {
    save(folder_ / (peers.rank == 1 ? "own" : "a"), 3, part_of(model, peers.rank, 2, 100), {}, peers);
  });
  const auto error = common_error(saved);
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ExitCode::io);
  EXPECT_TRUE(contains(error->what(), "rank 1: ")) << error->what();
  EXPECT_FALSE(fs::exists(folder_ / "own"));
  EXPECT_EQ(list(folder_ / "a").size(), 2u);
  EXPECT_TRUE(loaded.equals(untouched));
}

TEST_F(CheckpointRanks, MistakesOfTheCallersAreOneErrorAndLeaveNothing) {
  const Model model(1);
  save_in_parts(folder_, 1, model, 2, 100);
  const auto refused = [&](const char* reason, const std::function<void(State&)>& change_of_rank_1) {
    const auto error = common_error(run_ranks(2, [&](const Peers& peers) {
      State state = part_of(model, peers.rank, 2, 100);
      if (peers.rank == 1) change_of_rank_1(state);
      save(folder_, 2, state, {}, peers);
    }));
    ASSERT_TRUE(error) << reason;
    EXPECT_EQ(error->code(), ExitCode::internal);
    EXPECT_TRUE(contains(error->what(), reason)) << error->what();
    EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1) << reason;
  };
  refused("in no part", [](State& state) { state.tensors.erase(state.tensors.begin()); });
  refused("in more than one part", [&](State& state) { state.tensors[0] = part_of(model, 0, 2, 100).tensors[0]; });
  refused("comes twice", [](State& state) { state.tensors.push_back(state.tensors[0]); });
  refused("come twice", [](State& state) { state.tensors[0].count += 101; });
  refused("has no elements [", [](State& state) { state.tensors[0].begin = 64 * 24; });
  refused("has no elements [", [](State& state) { state.tensors[0].begin = -1; });
  refused("expected f32 [100], got f32 [99]",
          [](State& state) { state.tensors[0].get = [] { return Tensor::zeros({99}, DType::f32); }; });
  refused("is f32 [64, 24]", [](State& state) {
    for (TensorRef& ref : state.tensors) {
      if (ref.name == "params/embedding.weight") ref.shape = Shape{24, 64};
    }
  });
  refused("not a valid tensor name", [](State& state) { state.tensors[0].name = "params/x@0"; });
  refused("a surprise",
          [](State& state) { state.tensors[0].get = []() -> Tensor { throw std::runtime_error("a surprise"); }; });
}

// A file of each rank is hashed by one of those that load; what one finds, all know.
TEST_F(CheckpointRanks, DamageThatOneFindsIsDamageForAll) {
  const Model old_model(1), new_model(10);
  for (int loading = 1; loading <= 3; ++loading) {
    for (int damaged = 0; damaged < 3; ++damaged) {
      io::remove_all(folder_);
      save_in_parts(folder_, 1, old_model, 2, 100);
      save_in_parts(folder_, 2, new_model, 3, 100);
      const fs::path file = folder_ / "step-00000002" / fmt::format("rank-{:05}.h5", damaged);
      flip_bit(file, fs::file_size(file) / 2, 3);
      const Parts parts(loading, old_model, 60);
      expect_no_error(run_ranks(loading, [&](const Peers& peers) {
        const std::optional<Loaded> back = load(folder_, parts.state(peers.rank), {}, peers);
        ASSERT_TRUE(back);
        EXPECT_EQ(back->step, 1);
        ASSERT_EQ(back->warnings.size(), 1u);
        EXPECT_TRUE(contains(back->warnings[0], file.string())) << back->warnings[0];
      }));
      EXPECT_TRUE(parts.are(old_model)) << damaged << " by " << loading;
      flip_bit(folder_ / "step-00000001/rank-00001.h5", 5000, 0);
      const auto error = common_error(
          run_ranks(loading, [&](const Peers& peers) { load(folder_, parts.state(peers.rank), {}, peers); }));
      ASSERT_TRUE(error);
      EXPECT_EQ(error->code(), ExitCode::checkpoint);
      EXPECT_TRUE(contains(error->what(), "none of the 2 checkpoints")) << error->what();
    }
  }
}

// What neither Fletcher32 nor the hash of a part can tell, as no part is read whole: before anything is applied, the
// hash of the file does, whichever rank it is of.
TEST_F(CheckpointRanks, EveryFileIsHashedBeforeAnythingIsApplied) {
  Model zeros(1);
  for (Tensor& tensor : zeros.tensors) tensor = Tensor::zeros(tensor.shape(), tensor.dtype());
  for (int world = 1; world <= 3; ++world) {
    for (int damaged = 0; damaged < world; ++damaged) {
      for (int loading = 1; loading <= 3; ++loading) {
        io::remove_all(folder_);
        save_in_parts(folder_, 1, zeros, world, 1000);
        const fs::path file = folder_ / "step-00000001" / fmt::format("rank-{:05}.h5", damaged);
        std::string bytes = read_bytes(file);
        const size_t data = bytes.find(std::string(3000, '\0'));
        ASSERT_NE(data, std::string::npos);
        bytes[data + 2000] = bytes[data + 2001] = '\xff';
        write_bytes(file, bytes);
        const Parts parts(loading, zeros, 7), untouched(loading, zeros, 7);
        const auto error = common_error(
            run_ranks(loading, [&](const Peers& peers) { load(folder_, parts.state(peers.rank), {}, peers); }));
        ASSERT_TRUE(error) << damaged << " of " << world << " by " << loading;
        EXPECT_TRUE(contains(error->what(), file.string()) && contains(error->what(), "hash")) << error->what();
        for (size_t rank = 0; rank < parts.models.size(); ++rank) {
          EXPECT_TRUE(parts.models[rank].equals(untouched.models[rank]));
        }
      }
    }
  }
}

// Found by one rank while it reads, when others have read theirs.
TEST_F(CheckpointRanks, APartThatIsNotItsOwnIsDamageForAll) {
  const Model old_model(1), new_model(10);
  save_in_parts(folder_, 1, old_model, 2, 100);
  save_in_parts(folder_, 2, new_model, 2, 100);
  const fs::path path = folder_ / "step-00000002/manifest.json";
  std::string text = read_bytes(path);
  const size_t part = text.find("[1,100,100,\"") + 12;
  ASSERT_GT(part, size_t{12});
  text[part] = text[part] == '0' ? '1' : '0';
  const std::string body = text.substr(0, text.find("\"manifest_xxh3\""));
  write_bytes(path, body + "\"manifest_xxh3\": \"" + io::hash_bytes(std::as_bytes(std::span(body))) + "\"\n}\n");
  const Parts parts(2, old_model, 100);
  expect_no_error(run_ranks(2, [&](const Peers& peers) {
    const std::optional<Loaded> back = load(folder_, parts.state(peers.rank), {}, peers);
    ASSERT_TRUE(back);
    EXPECT_EQ(back->step, 1);
    ASSERT_EQ(back->warnings.size(), 1u);
    EXPECT_TRUE(contains(back->warnings[0], "rank 1: ") && contains(back->warnings[0], "@100")) << back->warnings[0];
  }));
  EXPECT_TRUE(parts.are(old_model));
}

// Writing runs in other threads, on a snapshot, and nothing is told in between.
TEST_F(CheckpointRanks, ASaveInThreeCallsIsTheSameSave) {
  const Model model(1);
  save_in_parts(folder_ / "a", 1, model, 3, 100);
  expect_no_error(run_ranks(3, [&](const Peers& peers) {
    const State state = part_of(model, peers.rank, 3, 100, 1);
    begin(folder_ / "b", 1, state, peers);
    std::string report;
    std::thread writer([&] { report = write_part(folder_ / "b", 1, state, peers.rank, 3); });
    writer.join();
    EXPECT_TRUE(list(folder_ / "b").empty());
    complete(folder_ / "b", 1, report, {}, peers);
  }));
  for (const char* name : {"rank-00000.h5", "rank-00001.h5", "rank-00002.h5", "manifest.json"}) {
    EXPECT_EQ(io::hash_file(folder_ / "a/step-00000001" / name), io::hash_file(folder_ / "b/step-00000001" / name));
  }
}

// After a resume nothing is known of the older ones: all ranks read them, and the watchdog hears of each.
TEST_F(CheckpointRanks, RetentionReadsOlderOnesTogether) {
  const Model model(1, 64);
  SaveOptions options;
  options.retention = {3, 0};
  for (int64_t step = 1; step <= 4; ++step) save_in_parts(folder_, step, model, 3, 17, {.retention = {9, 0}});
  const auto forget = [&](int64_t step) {
    for (int rank = 0; rank < 3; ++rank) {
      fs::last_write_time(folder_ / fmt::format("step-{:08}/rank-{:05}.h5", step, rank),
                          fs::file_time_type::clock::now());
    }
  };
  for (const int64_t step : {1, 2, 3, 4}) forget(step);
  flip_bit(folder_ / "step-00000003/rank-00002.h5", 100, 0);
  std::array<int, 3> times{};
  std::array<std::vector<std::string>, 3> warnings;
  expect_no_error(run_ranks(3, [&](const Peers& peers) {
    const auto rank = static_cast<size_t>(peers.rank);
    SaveOptions mine = options;
    mine.progress = [&times, rank] { ++times[rank]; };
    warnings[rank] = save(folder_, 5, part_of(model, peers.rank, 3, 17, 5), mine, peers).warnings;
  }));
  EXPECT_EQ(times, (std::array<int, 3>{3, 3, 3})) << "4, 3 and, as that is damaged, 2";
  for (const std::vector<std::string>& each : warnings) {
    ASSERT_EQ(each.size(), 1u);
    EXPECT_TRUE(contains(each[0], "step 3 is damaged") && contains(each[0], "rank-00002.h5: its hash")) << each[0];
  }
  std::vector<int64_t> left;
  for (const Entry& entry : list(folder_)) left.push_back(entry.step);
  EXPECT_EQ(left, (std::vector<int64_t>{2, 3, 4, 5}));
  // What is known is not read again.
  times = {};
  expect_no_error(run_ranks(3, [&](const Peers& peers) {
    SaveOptions mine = options;
    mine.progress = [&times, &peers] { ++times[static_cast<size_t>(peers.rank)]; };
    save(folder_, 6, part_of(model, peers.rank, 3, 17, 6), mine, peers);
  }));
  EXPECT_EQ(times, (std::array<int, 3>{}));
}

TEST_F(CheckpointRanks, RoomIsThatForAllOfThem) {
  const Model model(1);
  const auto huge = [&](const Peers& peers) {
    State state = part_of(model, peers.rank, 2, 100);
    for (int i = 0; i < 1000 && peers.rank == 1; ++i) {  // 4 PB on rank 1
      TensorRef ref;
      ref.name = fmt::format("huge/{}", i);
      ref.shape = Shape{1 << 20, 1 << 20};
      state.tensors.push_back(ref);
    }
    return state;
  };
  const auto error =
      common_error(run_ranks(2, [&](const Peers& peers) { save(folder_ / "dir", 1, huge(peers), {}, peers); }));
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code(), ExitCode::io);
  EXPECT_TRUE(contains(error->what(), "needs 4.4") && contains(error->what(), "free")) << error->what();
  const auto again =
      common_error(run_ranks(2, [&](const Peers& peers) { require_space(folder_, huge(peers), peers); }));
  EXPECT_TRUE(again && again->code() == ExitCode::io);
  EXPECT_TRUE(list(folder_ / "dir").empty());
}

}  // namespace
}  // namespace t6::checkpoint
