// What each rank saves of a run, and that all have everything after it was loaded.
#include <gtest/gtest.h>

#include <map>
#include <mutex>

#include "base/error.h"
#include "support/small_model.h"
#include "support/thread_ranks.h"
#include "train/training_state.h"

namespace t6::train {
namespace {

ModelConfig wide_model() {
  ModelConfig config = test::small_model_config(AttentionKind::mha);
  config.width = 120;
  return config;
}

// A model and its moments on one of several ranks, with the smallest buckets.
struct Replica {
  Replica(dist::Communicator& communicator, bool zero, uint64_t seed, DType compute = DType::f32)
      : model(wide_model()) {
    const int world = communicator.world();
    const int64_t granularity = Partition::granularity(world);
    parallel.emplace(
        DataParallel{.communicator = &communicator,
                     .partition = Partition(padded(model.parameters().storage_size(), granularity), world, 1),
                     .reduction = Reduction::fast,
                     .zero = zero});
    model.allocate(compute, kCpu, granularity, parallel->updated());
    test::fill_random(model, seed);
    optimizer.emplace(model.parameters(), OptimizerSection{}, parallel->updated());
    optimizer->first_moment().fill(static_cast<double>(seed));
  }
  checkpoint::State state() const { return training_state(model.parameters(), *optimizer, *parallel); }

  Transformer model;
  std::optional<DataParallel> parallel;
  std::optional<AdamW> optimizer;
};

size_t parts_of(const checkpoint::State& state) {
  size_t parts = 0;
  for (const checkpoint::TensorRef& ref : state.tensors) parts += ref.size() > 0;
  return parts;
}

TEST(SavedParts, AreOneStretchWithoutAShardedOptimizer) {
  size_t views = 0;
  Transformer(wide_model()).parameters().for_each_view([&](const Parameter&, const ParameterView&) { ++views; });
  for (const int world : {1, 3, 4}) {
    std::vector<size_t> parts(static_cast<size_t>(world));
    std::vector<size_t> buckets(parts.size());
    test::on_ranks(world, [&](const std::shared_ptr<dist::Communicator>& communicator) {
      const Replica replica(*communicator, false, 5);
      parts[static_cast<size_t>(communicator->rank())] = parts_of(replica.state());
      buckets[static_cast<size_t>(communicator->rank())] = replica.parallel->partition.buckets().size();
    });
    size_t all = 0;
    for (const size_t each : parts) all += each;
    // A boundary between two ranks cuts one view, each time in three tensors.
    EXPECT_LE(all, 3 * (views + static_cast<size_t>(world) - 1));
    EXPECT_GE(all, 3 * views);
    EXPECT_TRUE(world == 1 || buckets.front() > 2);
  }
}

TEST(SavedParts, AreWholeOnEveryRankAfterLoading) {
  for (const auto& [zero, compute] : {std::pair(false, DType::f32), std::pair(true, DType::f32),
                                      std::pair(false, DType::bf16), std::pair(true, DType::bf16)}) {
    SCOPED_TRACE(fmt::format("zero {}, {}", zero, name_of(compute)));
    std::mutex mutex;
    std::map<std::pair<std::string, int64_t>, Tensor> saved;
    test::on_ranks(3, [&, zero = zero, compute = compute](const std::shared_ptr<dist::Communicator>& communicator) {
      const Replica replica(*communicator, zero, 5, compute);
      const std::lock_guard lock(mutex);
      for (const checkpoint::TensorRef& ref : replica.state().tensors) {
        if (ref.size() == 0) continue;
        EXPECT_EQ(ref.dtype, DType::f32);
        EXPECT_TRUE(saved.emplace(std::pair(ref.name, ref.begin), ref.get().clone()).second);
      }
    });
    test::on_ranks(3, [&, zero = zero, compute = compute](const std::shared_ptr<dist::Communicator>& communicator) {
      const Replica expected(*communicator, zero, 5, compute), loaded(*communicator, zero, 6, compute);
      for (const checkpoint::TensorRef& ref : loaded.state().tensors) {
        if (ref.size() > 0) ref.set(saved.at({ref.name, ref.begin}));
      }
      spread_loaded(loaded.model.parameters(), *loaded.optimizer, *loaded.parallel);
      EXPECT_EQ(loaded.model.parameters().compute().to_doubles(), expected.model.parameters().compute().to_doubles());
      EXPECT_EQ(loaded.model.parameters().master().to_doubles(), expected.model.parameters().master().to_doubles());
      loaded.model.parameters().for_each_view([&, zero = zero](const Parameter& p, const ParameterView& v) {
        if (zero) return;
        const ParameterStore& store = loaded.model.parameters();
        const std::vector<double> m = store.gather(loaded.optimizer->first_moment(), p, v).to_doubles();
        EXPECT_EQ(m, std::vector<double>(m.size(), 5.0)) << v.name;
      });
    });
  }
}

// Beside a bf16 copy a rank of a sharded optimizer holds the masters that it updates, which start as everywhere.
TEST(SavedParts, MastersOfAShardedOptimizerAreThoseThatItUpdates) {
  Transformer whole(wide_model());
  whole.allocate(DType::bf16);
  whole.parameters().initialise(9);
  test::on_ranks(3, [&](const std::shared_ptr<dist::Communicator>& communicator) {
    Replica replica(*communicator, true, 5, DType::bf16);
    ParameterStore& store = replica.model.parameters();
    store.initialise(9);
    EXPECT_EQ(store.master_spans(), replica.parallel->partition.owned(communicator->rank()));
    EXPECT_EQ(store.master().numel() * 3, store.storage_size());
    const Tensor all = whole.parameters().compute(), masters = whole.parameters().master();
    EXPECT_EQ(store.compute().slice(0, all.shape()).to_doubles(), all.to_doubles());
    int64_t at = 0;
    for (const Span& span : store.master_spans()) {
      const int64_t count = std::min(span.count, std::max<int64_t>(0, masters.numel() - span.begin));  // less padding
      if (count > 0) {
        EXPECT_EQ(store.master().slice(at, {count}).to_doubles(), masters.slice(span.begin, {count}).to_doubles());
      }
      at += span.count;
    }
  });
}

TEST(SavedParts, TooManyAreRefusedWithTheBucketThatWouldDo) {
  test::on_ranks(4, [&](const std::shared_ptr<dist::Communicator>& communicator) {
    const DataParallel parallel{
        .communicator = communicator.get(), .partition = Partition(int64_t{1} << 22, 4, 1 << 20), .zero = true};
    const checkpoint::Peers peers{.rank = communicator->rank(), .world = 4, .all_gather = [&](std::string_view text) {
                                    return communicator->all_gather_text(text);
                                  }};
    checkpoint::State state;
    for (int64_t i = 0; i < 150'000; ++i) {
      state.tensors.push_back({.name = "params/w",
                               .dtype = DType::f32,
                               .shape = {int64_t{1} << 40},
                               .get = {},
                               .set = {},
                               .begin = 4 * 8192 * i,
                               .count = 8192});
    }
    try {
      require_manifest_fits(state, parallel, peers);
      ADD_FAILURE() << "expected an Error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::usage);
      EXPECT_NE(std::string(error.what()).find("600,000 parts"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("train.bucket_mb=4"), std::string::npos) << error.what();
    }
    state.tensors.resize(50'000);
    require_manifest_fits(state, parallel, peers);
  });
}

}  // namespace
}  // namespace t6::train
