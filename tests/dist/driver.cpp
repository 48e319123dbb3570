// One rank of a test of communicators: `driver <mpi|nccl> <cpu|cuda> <case>...` under mpirun runs the cases in turn and
// compares every result with what this rank computes alone. Exit code 0: all held; otherwise a line on standard error
// says what did not.
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>

#include "base/error.h"
#include "cases.h"
#include "tensor/gpu.h"

namespace {

using namespace t6;

int number_of(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::atoi(text) : otherwise;
}

dist::Ranks ranks_of_mpirun() {
  return {.rank = number_of("OMPI_COMM_WORLD_RANK", 0),
          .world = number_of("T6_TEST_WORLD", number_of("OMPI_COMM_WORLD_SIZE", 1)),
          .local_rank = number_of("OMPI_COMM_WORLD_LOCAL_RANK", 0),
          .local_world = number_of("OMPI_COMM_WORLD_LOCAL_SIZE", 1)};
}

const std::map<std::string, void (*)(const test::Rank&)> kCases = {
    {"operations", test::operations}, {"many", test::many},
    {"texts", test::texts},           {"tree", test::tree},
    {"waiting", test::waiting},       {"speed", test::speed},
    {"short", test::short_message},   {"abort", test::aborted},
    {"throw", test::throws_alone},    {"unequal", test::unequal},
};

int run(int argc, char** argv) {
  T6_CHECK(argc >= 4, "expected <mpi|nccl> <cpu|cuda> <case>...");
  const dist::Ranks ranks = ranks_of_mpirun();
  Device device = kCpu;
  if (std::string(argv[2]) == "cuda") {
    T6_CHECK(gpu::count() > 0, "{}", gpu::why_none());
    device = {Device::Kind::cuda, ranks.local_rank % gpu::count()};
    gpu::use(device.index);
  }
  const std::unique_ptr<dist::Communicator> communicator = test::connect(argv[1], ranks, device);
  for (int i = 3; i < argc; ++i) {
    const auto found = kCases.find(argv[i]);
    T6_CHECK(found != kCases.end(), "no case {}", argv[i]);
    try {
      found->second({*communicator, device});
    } catch (const Error& error) {
      fail(error.code(), "{}: {}", argv[i], error.what());
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    std::fprintf(stderr, "rank %d: %s\n", number_of("OMPI_COMM_WORLD_RANK", 0), error.what());
    return static_cast<int>(error.code());
  }
}
