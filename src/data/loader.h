// Batches of tokens, read ahead of the training loop by threads of their own.
//
// What a batch holds is decided by the sampler alone: number of threads and depth change nothing but waiting times.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "data/sampler.h"
#include "data/shard.h"
#include "data/token_hash.h"

namespace t6::data {

struct Batch {
  uint64_t step = 0;
  uint64_t micro_step = 0;
  std::vector<int32_t> tokens;   // [B, T]
  std::vector<int32_t> targets;  // [B, T], the token after each
  TokenHash hash;                // of this batch's rows
};

struct LoaderOptions {
  uint32_t depth = 4;    // batches read ahead
  uint32_t threads = 1;  // more hide the latency of cold network storage
};

// Reads windows of T + 1 tokens into tokens [B, T] and targets [B, T]. Error(data) as TokenShard::read.
void read_windows(const ShardSet& shards, std::span<const Window> windows, uint64_t window, std::span<int32_t> tokens,
                  std::span<int32_t> targets);

class Loader {
 public:
  // `shards` must outlive the loader. Starts reading at `first_step`; `consumed` is the hash of the steps before it
  // (from the checkpoint, or empty). Error(usage) as BatchPlan::check.
  Loader(const ShardSet& shards, Sampler sampler, BatchPlan plan, uint64_t first_step = 0, TokenHash consumed = {},
         LoaderOptions options = {});
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  // The next micro-batch in order: (step, 0), ..., (step, micro_steps - 1), (step + 1, 0), ... It stays valid until the
  // next call. What went wrong while reading it is thrown here, and again by every later call.
  const Batch& next();

  // Of all rows handed out by next() on this rank, and those before first_step. The hash of a run on several ranks is
  // the sum of theirs (TokenHash::add): resume with the sum on rank 0 and an empty hash on the others.
  const TokenHash& consumed() const { return consumed_; }

  const BatchPlan& plan() const { return plan_; }
  const Sampler& sampler() const { return sampler_; }

 private:
  struct Slot {
    Batch batch;
    bool ready = false;
    std::exception_ptr error;
  };

  void work();
  void fill(Batch& batch, std::vector<int32_t>& row) const;

  const ShardSet& shards_;
  Sampler sampler_;
  BatchPlan plan_;
  LoaderOptions options_;
  TokenHash consumed_;

  // Batch number n, counted from (step 0, micro-step 0), lives in slot n % slots. Threads claim numbers in turn.
  std::vector<Slot> slots_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable slot_ready_, slot_free_;
  uint64_t next_ = 0;      // number that next() hands out
  uint64_t claimed_ = 0;   // number that the next idle thread reads
  uint64_t released_ = 0;  // every lower number's slot may be overwritten
  bool stopping_ = false;
};

}  // namespace t6::data
