// One rank of a short training on GPUs (train_ranks.h) that a launcher started: `ranks_driver [zero] [bf16] [tree]
// [graph]`. Rank 0 writes what came of it, which must be the same on all ranks, the weights as a hash:
//   trained over COMMUNICATOR LOSS... | NORM... | HASH
#include <cstdio>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/io.h"
#include "dist/connect.h"
#include "dist/ending.h"
#include "train/device.h"
#include "train/train_ranks.h"

namespace {

using namespace t6;

std::string describe(const test::TrainedRank& trained) {
  const auto exact = [](const std::vector<double>& values) {
    std::string text;
    for (const double value : values) text += fmt::format("{:a} ", value);
    return text;
  };
  const std::string hash = io::hash_bytes(std::as_bytes(std::span(trained.weights)));
  return exact(trained.losses) + "| " + exact(trained.norms) + "| " + hash;
}

int run(int argc, char** argv) {
  constexpr int64_t kSteps = 4;
  test::Shares shares;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    T6_CHECK(word == "zero" || word == "bf16" || word == "tree" || word == "graph", "no option {}", word);
    if (word == "zero") shares.zero = true;
    if (word == "bf16") shares.compute = DType::bf16;
    if (word == "tree") shares.reduction = Reduction::tree;
    if (word == "graph") shares.cuda_graph = true;
  }
  const dist::Found found = dist::discover({});
  train::set_determinism(Determinism::strict);  // products by the same algorithms in every process
  shares.world = found.ranks.world;
  shares.device = train::choose_device(DeviceChoice::cuda, "the test", dist::choose_gpu(found.ranks, gpu::count()));
  dist::ConnectOptions options;
  options.repeatable = true;
  options.control.watchdog = 60;
  dist::Connection connection = dist::connect(found, shares.device, options);
  return connection.run([&] {
    const std::string text = describe(test::train_rank(shares, connection.communicator(), kSteps));
    connection.require_same("outcome", text, "all ranks have the same losses and weights");
    if (found.ranks.rank == 0) std::printf("trained over %s %s\n", connection.communicator().name(), text.c_str());
    std::fflush(stdout);
    return 0;
  });
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const SaidElsewhere& error) {
    t6::dist::leave_with_others(error.code());
  } catch (const Error& error) {
    std::fprintf(stderr, "t6: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
