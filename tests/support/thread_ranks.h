// Ranks as threads of one process, for tests of what ranks do together without a launcher.
#pragma once

#include <barrier>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "base/error.h"
#include "dist/communicator.h"

namespace t6::test {

// What the threads show each other.
struct RankBoard {
  explicit RankBoard(int world) : barrier(world), tensors(static_cast<size_t>(world)), texts(tensors.size()) {}
  std::barrier<> barrier;
  std::vector<Tensor> tensors;
  std::vector<std::string> texts;
};

// Sums in the order of ranks, in f64 (so that 2 ranks and 1 agree to rounding). Every operation is done when it
// returns.
class ThreadRank final : public dist::Communicator {
 public:
  ThreadRank(RankBoard& board, const dist::Ranks& ranks) : Communicator(ranks), board_(board) {}
  const char* name() const override { return "threads"; }

  void all_reduce(const Tensor& x) override {
    const Tensor all = sum_of_all(x);
    x.copy_from(all);
  }
  void reduce_scatter(const Tensor& x) override {
    const Tensor all = sum_of_all(x);
    const int64_t slice = x.numel() / world();
    x.fill(std::numeric_limits<float>::quiet_NaN());
    x.slice(rank() * slice, {slice}).copy_from(all.slice(rank() * slice, {slice}));
  }
  void all_gather(const Tensor& x) override {
    const int64_t slice = x.numel() / world();
    together(x, [&] {
      for (int r = 0; r < world(); ++r) {
        if (r != rank()) x.slice(r * slice, {slice}).copy_from(of(r).slice(r * slice, {slice}));
      }
    });
  }
  void broadcast(const Tensor& x, int root) override {
    together(x, [&] {
      if (rank() != root) x.copy_from(of(root));
    });
  }
  void exchange(int peer, const Tensor& send, const Tensor& receive) override {
    together(send, [&] { receive.copy_from(of(peer)); });
  }
  // One-way messages pair up with nothing here: only exchanges of whole worlds.
  void send(int, const Tensor&) override { T6_CHECK(false, "[threads] no one-way messages"); }
  void receive(int, const Tensor&) override { T6_CHECK(false, "[threads] no one-way messages"); }
  void wait() override {}

 private:
  std::vector<std::string> gather_text(std::string_view text) override {
    board_.texts[static_cast<size_t>(rank())] = text;
    board_.barrier.arrive_and_wait();
    std::vector<std::string> all = board_.texts;
    board_.barrier.arrive_and_wait();
    return all;
  }

  const Tensor& of(int r) const { return board_.tensors[static_cast<size_t>(r)]; }

  template <class Work>
  void together(const Tensor& x, Work work) {
    board_.tensors[static_cast<size_t>(rank())] = x;
    board_.barrier.arrive_and_wait();
    work();
    board_.barrier.arrive_and_wait();
  }

  Tensor sum_of_all(const Tensor& x) {
    Tensor sum = Tensor::zeros(x.shape(), x.dtype() == DType::i32 ? DType::i32 : DType::f64);
    together(x, [&] {
      for (int r = 0; r < world(); ++r) sum.add_from(of(r));
    });
    return sum;
  }

  RankBoard& board_;
};

// Runs work(communicator) on every rank, and throws the first rank's exception.
inline void on_ranks(int world, const std::function<void(std::shared_ptr<dist::Communicator>)>& work) {
  RankBoard board(world);
  std::vector<std::exception_ptr> errors(static_cast<size_t>(world));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        work(std::make_shared<ThreadRank>(board, dist::Ranks{rank, world, rank, world}));
      } catch (...) {
        errors[static_cast<size_t>(rank)] = std::current_exception();
        board.barrier.arrive_and_drop();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::exception_ptr& error : errors) {
    if (error) std::rethrow_exception(error);
  }
}

}  // namespace t6::test
