// t6 bench: how fast this machine encodes, multiplies and trains.
#include "cli/bench.h"

#include <fmt/format.h>
#include <omp.h>

#include "cli/arguments.h"
#include "cli/output.h"
#include "ops/matmul_bench.h"

namespace t6::cli {
namespace {

struct MatmulOptions {
  int64_t threads = 0;
  double seconds = 1;
  bool json = false;
};

int bench_matmul(const MatmulOptions& options) {
  const int threads = options.threads > 0 ? static_cast<int>(options.threads) : omp_get_max_threads();
  const double f32 = matmul_peak(DType::f32, threads, options.seconds);
  const double bf16 = matmul_peak(DType::bf16, threads, options.seconds);
  if (options.json) {
    print_json({{"threads", threads}, {"gflops_f32", f32}, {"gflops_bf16", bf16}});
    return 0;
  }
  print(label_lines({{"threads", std::to_string(threads)},
                     {"f32", fmt::format("{:.0f} GFLOP/s", f32)},
                     {"bf16", fmt::format("{:.0f} GFLOP/s", bf16)}}));
  return 0;
}

}  // namespace

void add_bench_matmul(CLI::App& group, Context& context) {
  CLI::App* command =
      add_command(group, "matmul", "the peak of matrix products that other benches are measured against",
                  "  t6 bench matmul --threads 1");
  auto options = options_for<MatmulOptions>(command, context, &bench_matmul);
  command->add_option("--threads", options->threads, "CPU threads; 0: all")
      ->type_name("N")
      ->transform(integer_between(0, 4096))
      ->capture_default_str();
  command->add_option("--seconds", options->seconds, "time for each type")
      ->type_name("X")
      ->transform(number_between(0, 3600, true))
      ->capture_default_str();
  command->add_flag("--json", options->json, "print one JSON document");
}

void add_bench(CLI::App& root, Context& context) {
  CLI::App* group = add_command(root, "bench", "how fast this machine encodes, multiplies and trains",
                                "  t6 bench train --config configs/t6_tpa_small.yaml --precision bf16\n"
                                "  t6 bench tokenizer book.txt --tokenizer tokenizer.tiktoken");
  add_bench_train(*group, context);
  add_bench_tokenizer(*group, context);
  add_bench_matmul(*group, context);
}

}  // namespace t6::cli
