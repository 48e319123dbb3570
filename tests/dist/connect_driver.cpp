// One rank of the tests of connections: `connect_driver <case>` under mpirun, or with variables of torchrun. Ends as
// main of t6 does: errors on standard error, unless another rank says them, and their exit code.
#include <csignal>
#include <cstdio>
#include <string>

#include "dist/connect.h"
#include "dist/ending.h"
#include "tensor/tensor.h"

namespace {

using namespace t6;

int run(const std::string& what) {
  const dist::Found found = dist::discover({});
  dist::ConnectOptions options;
  options.timeout = 20;
  options.control.watchdog = 20;
  options.control.heartbeat = 0.2;
  dist::Connection connection = dist::connect(found, [&]() -> dist::Beginning {
    if (what == "alone" && found.ranks.rank == 1) fail(ExitCode::usage, "it has no device");
    return {kCpu, options};
  });
  const int rank = connection.ranks().rank, world = connection.ranks().world;
  const std::string mine = what == "config" && rank == 1 ? "steps: 500" : "steps: 400";
  connection.require_same("config", "train:\n  " + mine + "\nrun:\n", "give all the same");
  connection.require_same("build", what == "longer" && rank == 1 ? "t6 1\nMPI 4" : "t6 1", "build them alike");
  connection.require_distinct_gpus(what == "gpu" ? "GPU-1" : "GPU-" + std::to_string(rank));
  connection.require_no_problem(what == "problem" && rank == world - 1 ? "the disk is missing" : "", ExitCode::io);
  return connection.run([&] {
    for (int64_t step = 1; step <= 5; ++step) {
      connection.control().progress(step, "backward");
      if (rank == 1 && step == 3 && what == "kill") ::raise(SIGKILL);
      if (rank == 1 && step == 3 && what == "error") fail(ExitCode::data, "the corpus is torn");
      Tensor x = Tensor::empty({4}, DType::f32, kCpu);
      for (int i = 0; i < 4; ++i) x.data<float>()[i] = static_cast<float>(rank + i);
      connection.communicator().all_reduce(x);
      connection.communicator().wait();
      const int sum = world * (world - 1) / 2;
      for (int i = 0; i < 4; ++i) T6_CHECK(x.data<float>()[i] == static_cast<float>(sum + world * i), "a wrong sum");
    }
    if (what == "together") connection.fail_together(ExitCode::numeric, "the loss is not finite");
    return 0;
  });
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc > 1 ? argv[1] : "");
  } catch (const SaidElsewhere& error) {
    t6::dist::leave_with_others(error.code());
  } catch (const Error& error) {
    std::fprintf(stderr, "t6: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
