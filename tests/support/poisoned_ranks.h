// A communicator that makes one number of one rank not finite on its way to the others: what a rank gets that computed
// it.
#pragma once

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "dist/communicator.h"

namespace t6::test {

// Where a number goes bad: in the loss of a micro-batch, in the gradient, or in the weights that this rank updated and
// the others get of it (optimizer.zero), at this step (from 1) of this rank.
struct Poison {
  enum class In : uint8_t { loss, gradient, weights };
  In in = In::loss;
  int64_t step = 0;  // 0: never
  int rank = 0;
  int64_t steps = 1;  // in a row
  double value = std::numeric_limits<double>::quiet_NaN();
  bool told = true;  // control: false makes the number bad on this rank alone, after the sum
};

// Knows the collectives of a training step by their dtype: losses are gathered in f64, once a step; gradients are
// summed in f32, and weights gathered, after the losses. `done`: steps before its first.
class PoisonedRank final : public dist::Communicator {
 public:
  PoisonedRank(dist::Communicator& real, std::vector<Poison> poisons, int64_t done = 0)
      : Communicator(real.ranks()), real_(real), poisons_(std::move(poisons)), steps_(done) {}
  const char* name() const override { return real_.name(); }

  void all_reduce(const Tensor& x) override {
    if (x.dtype() == DType::f32) spoil(Poison::In::gradient, x);
    real_.all_reduce(x);
    if (x.dtype() == DType::f32) spoil(Poison::In::gradient, x, /*told=*/false);
  }
  void reduce_scatter(const Tensor& x) override {
    spoil(Poison::In::gradient, x);
    real_.reduce_scatter(x);
  }
  void all_gather(const Tensor& x) override {
    const int64_t slice = x.numel() / world();
    if (x.dtype() == DType::f64) {
      spoil(Poison::In::loss, x.slice(rank() * slice, {slice}));
      ++steps_;
    } else if (x.dtype() == DType::f32) {
      spoil(Poison::In::weights, x.slice(rank() * slice, {slice}));
    }
    real_.all_gather(x);
  }
  void exchange(int peer, const Tensor& send, const Tensor& receive) override {
    if (send.dtype() == DType::f32) spoil(Poison::In::gradient, send);
    real_.exchange(peer, send, receive);
  }
  void broadcast(const Tensor& x, int root) override { real_.broadcast(x, root); }
  void send(int peer, const Tensor& x) override { real_.send(peer, x); }
  void receive(int peer, const Tensor& x) override { real_.receive(peer, x); }
  void wait() override { real_.wait(); }
  std::string failure() override { return real_.failure(); }
  void abort() noexcept override { real_.abort(); }

 private:
  std::vector<std::string> gather_text(std::string_view text) override { return real_.all_gather_text(text); }

  void spoil(Poison::In in, const Tensor& x, bool told = true) {
    const int64_t step = in == Poison::In::weights ? steps_ : steps_ + 1;
    for (const Poison& poison : poisons_) {
      if (poison.in != in || poison.told != told || poison.rank != rank() || poison.step == 0) continue;
      if (step < poison.step || step >= poison.step + poison.steps) continue;
      if (!told) real_.wait();  // for the sum
      x.slice(x.numel() / 2, {1}).fill(poison.value);
    }
  }

  dist::Communicator& real_;
  std::vector<Poison> poisons_;
  int64_t steps_;  // done
};

}  // namespace t6::test
