// t6 bench: how fast this machine encodes, multiplies, trains and decodes.
#include "cli/bench.h"

#include <fmt/format.h>
#include <omp.h>

#include "base/error.h"
#include "cli/arguments.h"
#include "cli/output.h"
#include "cli/profile_table.h"
#include "ops/matmul.h"
#include "ops/matmul_bench.h"
#include "tensor/gpu.h"

namespace t6::cli {
namespace {

struct MatmulOptions {
  Device::Kind device = Device::Kind::cpu;
  int64_t threads = 0;
  int64_t size = 0;
  double seconds = 1;
  bool json = false;
};

constexpr int64_t kMaxSize = 1 << 16;

int bench_matmul_on_gpu(const MatmulOptions& options) {
  if (gpu::count() == 0) fail(ExitCode::usage, "--device cuda: expected a GPU, but {}", gpu::why_none());
  const Device device{Device::Kind::cuda, 0};
  const int64_t size = options.size > 0 ? options.size : 8192;
  const double f32 = gpu_matmul_peak(device, DType::f32, options.seconds, size);
  const double bf16 = gpu_matmul_peak(device, DType::bf16, options.seconds, size);
  std::vector<std::string> algorithms;
  for (const MatmulAlgorithm& algorithm : matmul_algorithms()) algorithms.push_back(to_string(algorithm));
  const std::string name = gpu::info(device.index).name, library = "cuBLASLt " + gpu_matmul_library_version();
  if (options.json) {
    print_json({{"device", "cuda"},
                {"name", name},
                {"library", library},
                {"size", size},
                {"gflops_f32", f32},
                {"gflops_bf16", bf16},
                {"algorithms", algorithms}});
    return 0;
  }
  std::vector<std::pair<std::string, std::string>> lines{{"device", name},
                                                         {"library", library},
                                                         {"size", std::to_string(size)},
                                                         {"f32", product_rate(f32)},
                                                         {"bf16", product_rate(bf16)}};
  for (const std::string& algorithm : algorithms) lines.emplace_back("algorithm", algorithm);
  print(label_lines(lines));
  return 0;
}

int bench_matmul(const MatmulOptions& options) {
  if (options.device == Device::Kind::cuda) return bench_matmul_on_gpu(options);
  const int threads = options.threads > 0 ? static_cast<int>(options.threads) : omp_get_max_threads();
  const int64_t size = options.size > 0 ? options.size : 2048;
  const double f32 = matmul_peak(DType::f32, threads, options.seconds, size);
  const double bf16 = matmul_peak(DType::bf16, threads, options.seconds, size);
  if (options.json) {
    print_json({{"device", "cpu"}, {"threads", threads}, {"size", size}, {"gflops_f32", f32}, {"gflops_bf16", bf16}});
    return 0;
  }
  print(label_lines({{"threads", std::to_string(threads)}, {"f32", product_rate(f32)}, {"bf16", product_rate(bf16)}}));
  return 0;
}

}  // namespace

void add_bench_matmul(CLI::App& group, Context& context) {
  CLI::App* command =
      add_command(group, "matmul", "the peak of matrix products that other benches are measured against",
                  "  t6 bench matmul --threads 1\n"
                  "  t6 bench matmul --device cuda");
  auto options = options_for<MatmulOptions>(command, context, &bench_matmul);
  command->add_option("--device", options->device, "where to multiply")
      ->type_name("NAME")
      ->transform(one_of({"cpu", "cuda"}))
      ->default_str("cpu");
  command->add_option("--size", options->size, "rows of the square matrices; 0: 2048 on the CPU, 8192 on a GPU")
      ->type_name("N")
      ->transform(integer_between(0, kMaxSize))
      ->capture_default_str();
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
  CLI::App* group = add_command(root, "bench", "how fast this machine encodes, multiplies, trains and decodes",
                                "  t6 bench train --config configs/t6_tpa_small.yaml --precision bf16\n"
                                "  t6 bench decode --size small --precision bf16\n"
                                "  t6 bench tokenizer book.txt --tokenizer tokenizer.tiktoken");
  add_bench_train(*group, context);
  add_bench_ops(*group, context);
  add_bench_decode(*group, context);
  add_bench_tokenizer(*group, context);
  add_bench_matmul(*group, context);
}

}  // namespace t6::cli
