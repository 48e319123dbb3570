// The collective operations between the ranks of a run, on tensors and on texts.
//
// Every rank calls the same operations in the same order with equal shapes and dtypes. Operations on tensors are asked
// for and run in that order beside the caller's own work: on a stream of the communicator's own (GPU) or a thread of
// its own (CPU), behind everything that was asked of the tensor's device before. Until wait() the tensors belong to the
// communicator. Tensors are f32, f64, bf16 or i32 and lie on the device that the communicator was made for.
//
// Every failure is Error(peer) naming the operation; once one failed the run is over.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dist/ranks.h"
#include "tensor/tensor.h"

namespace t6::dist {

class Communicator {
 public:
  explicit Communicator(const Ranks& ranks) : ranks_(ranks) {}
  virtual ~Communicator() = default;
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  const Ranks& ranks() const { return ranks_; }
  int rank() const { return ranks_.rank; }
  int world() const { return ranks_.world; }
  bool is_root() const { return ranks_.rank == 0; }
  virtual const char* name() const = 0;  // "single", "mpi", "nccl"

  // x := the sum over ranks, in the library's order, which may change with the world size.
  virtual void all_reduce(const Tensor& x) = 0;
  // x is world slices of equal size; slice rank() := its sum over ranks, the others are undefined afterwards.
  virtual void reduce_scatter(const Tensor& x) = 0;
  // x is world slices of equal size; slice r := slice r of rank r.
  virtual void all_gather(const Tensor& x) = 0;
  // x := x of rank `root`.
  virtual void broadcast(const Tensor& x, int root) = 0;
  // Sends `send` to `peer` and receives `receive` from it, which does the same; neither overlaps the other.
  virtual void exchange(int peer, const Tensor& send, const Tensor& receive) = 0;
  // One direction of it, where the two sides differ.
  virtual void send(int peer, const Tensor& x) = 0;
  virtual void receive(int peer, const Tensor& x) = 0;

  // All operations so far are done for what is asked for next: the host waits on a CPU; on a GPU the device's own
  // stream does and the host goes on.
  virtual void wait() = 0;

  // The text of every rank, in their order, of any length. Waits.
  std::vector<std::string> all_gather_text(std::string_view text) {
    if (on_wait_) on_wait_(true);
    std::vector<std::string> texts = gather_text(text);
    if (on_wait_) on_wait_(false);
    return texts;
  }
  // Hears when this rank begins to wait for the texts of others (true), and when they are there.
  void set_on_wait(std::function<void(bool waits)> on_wait) { on_wait_ = std::move(on_wait); }

  // For a watchdog, from any thread, while another one is inside an operation or wait().
  // What has failed so far without being asked, such as a connection that broke; empty: nothing.
  virtual std::string failure() { return {}; }
  // Gives up what is under way: who waits gets Error(peer), and the destructor waits for no other rank.
  virtual void abort() noexcept {}

 private:
  virtual std::vector<std::string> gather_text(std::string_view text) = 0;

  Ranks ranks_;
  std::function<void(bool)> on_wait_;
};

// One rank: every operation leaves things as they are.
std::unique_ptr<Communicator> single();
Communicator& one_rank();  // the same, to point at

}  // namespace t6::dist
