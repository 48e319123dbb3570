// The communicator of a run on one rank.
#include "base/error.h"
#include "dist/communicator.h"

namespace t6::dist {
namespace {

class Single final : public Communicator {
 public:
  Single() : Communicator({}) {}
  const char* name() const override { return "single"; }
  void all_reduce(const Tensor&) override {}
  void reduce_scatter(const Tensor&) override {}
  void all_gather(const Tensor&) override {}
  void broadcast(const Tensor&, int root) override { require(root); }
  void exchange(int peer, const Tensor& send, const Tensor& receive) override {
    require(peer);
    receive.copy_from(send);
  }
  void send(int peer, const Tensor&) override { no_peer(peer); }
  void receive(int peer, const Tensor&) override { no_peer(peer); }
  void wait() override {}

 private:
  std::vector<std::string> gather_text(std::string_view text) override { return {std::string(text)}; }
  static void require(int rank) { T6_CHECK(rank == 0, "[communicator] expected rank 0 of 1, got {}", rank); }
  [[noreturn]] static void no_peer(int peer) {
    fail(ExitCode::internal, "[communicator] expected another rank, got {} in a world of 1", peer);
  }
};

}  // namespace

std::unique_ptr<Communicator> single() {
  return std::make_unique<Single>();
}

Communicator& one_rank() {
  static Single single;
  return single;
}

}  // namespace t6::dist
