// t6 bench train: training steps on made-up tokens, and where their time goes.
#include <omp.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "base/format.h"
#include "base/profile.h"
#include "base/progress.h"
#include "base/rng.h"
#include "cli/arguments.h"
#include "cli/bench.h"
#include "cli/config_arguments.h"
#include "cli/model_facts.h"
#include "cli/output.h"
#include "ops/matmul_bench.h"
#include "train/device.h"
#include "train/optimizer.h"
#include "train/step.h"

namespace t6::cli {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct Options {
  ConfigArguments config;
  int64_t batch = 0;
  int64_t steps = 5;
  int64_t warmup = 1;
  std::optional<Precision> precision;
  std::optional<DeviceChoice> device;
  bool profile = false;
  bool json = false;
};

// What the table of time is made of, and which kernels belong where; all others are element-wise.
constexpr const char* kProducts = "products";
constexpr const char* kAttention = "attention";
constexpr const char* kOptimizer = "optimizer";
constexpr const char* kElementwise = "element-wise";
constexpr const char* kRest = "outside of kernels";

std::string category_of(const std::string& kernel) {
  if (kernel == "matmul") return kProducts;
  if (kernel.starts_with("attention")) return kAttention;
  for (const char* name : {"adamw", "sum_of_squares", "norm_and_clip"}) {
    if (kernel == name) return kOptimizer;
  }
  return kElementwise;
}

struct Category {
  std::string name;
  double seconds = 0;
  double flops = 0;
  std::vector<profile::Entry> kernels;
};

std::vector<Category> categories_of(const std::vector<profile::Entry>& profile, double total) {
  std::vector<Category> all;
  for (const char* name : {kProducts, kAttention, kElementwise, kOptimizer, kRest}) all.push_back({name, 0, 0, {}});
  double measured = 0;
  for (const profile::Entry& entry : profile) {
    const std::string name = category_of(entry.name);
    Category& category = *std::find_if(all.begin(), all.end(), [&](const Category& c) { return c.name == name; });
    category.seconds += entry.seconds;
    category.flops += entry.flops;
    category.kernels.push_back(entry);
    measured += entry.seconds;
  }
  all.back().seconds = std::max(0.0, total - measured);
  return all;
}

train::MicroBatch made_up_batch(const ModelConfig& model, int64_t batch) {
  const Shape shape{batch, model.context};
  const Philox philox(1, RngPurpose::sample);
  const auto make = [&](uint64_t from) {
    std::vector<int32_t> ids(static_cast<size_t>(shape.numel()));
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<int32_t>(philox.below(from + i, static_cast<uint64_t>(model.vocab_size)));
    }
    return Tensor::from<int32_t>(shape, ids);
  };
  return {make(0), make(static_cast<uint64_t>(shape.numel()))};
}

struct Result {
  std::vector<double> step_seconds;
  std::vector<profile::Entry> profile;
  double loss = 0;
  Device device;
  size_t memory = 0;  // peak, bytes
  double total() const {
    double sum = 0;
    for (const double seconds : step_seconds) sum += seconds;
    return sum;
  }
};

// Steps as a run makes them: on a GPU each is asked for before the one before is done.
Result measure(const RunConfig& config, const Options& options) {
  const Device device = train::choose_device(config.run.device);
  Transformer model(config.model);
  model.allocate(config.train.precision == Precision::bf16 ? DType::bf16 : DType::f32, device);
  model.parameters().initialise(static_cast<uint64_t>(config.run.seed));
  train::AdamW optimizer(model.parameters(), config.optimizer);
  const train::MicroBatch batch = made_up_batch(config.model, config.train.micro_batch);
  // A captured graph cannot be timed from inside.
  train::TrainingStep step(model, optimizer,
                           {.micro_steps = 1,
                            .accumulation = config.train.accumulation,
                            .recompute = config.train.recompute,
                            .clip_norm = config.optimizer.clip_norm,
                            .cuda_graph = config.train.cuda_graph && !options.profile});
  const bool profiled = options.profile || device.is_cpu();
  Result result;
  result.device = device;
  Progress progress({.label = "bench",
                     .unit = "step",
                     .total = static_cast<uint64_t>(options.warmup + options.steps),
                     .plain_lines = false,
                     .summary = false});
  Clock::time_point finished = Clock::now();
  const auto finish = [&] {
    result.loss = step.finish().loss;
    result.step_seconds.push_back(std::chrono::duration<double>(Clock::now() - finished).count());
    finished = Clock::now();
    progress.advance();
  };
  const auto run_steps = [&](int64_t from, int64_t count) {
    for (int64_t i = from; i < from + count; ++i) {
      step.run(i + 1, config.optimizer.lr, [&] { return batch; });
      while (step.unfinished() > (device.is_cpu() ? 0 : 1)) finish();
    }
    while (step.unfinished() > 0) finish();
  };
  run_steps(0, options.warmup);
  result.step_seconds.clear();
  if (profiled) profile::start();
  finished = Clock::now();
  run_steps(options.warmup, options.steps);
  if (profiled) result.profile = profile::stop();
  progress.finish();
  result.memory = device.is_cuda() ? gpu::peak_bytes() : memory::usage().peak;
  return result;
}

struct Report {
  ModelFacts facts;
  int threads = 1;
  double tokens_per_step = 0;
  double ms = 0, best_ms = 0;
  double tokens_per_second = 0;
  double peak = 0;  // GFLOP/s of products
  double mfu = 0, mfu_full = 0;
  double loss = 0;
  int64_t steps = 0;
  std::vector<Category> categories;  // seconds of all measured steps
};

Json to_json(const Report& report) {
  const auto steps = static_cast<double>(report.steps);
  Json time = Json::array();
  for (const Category& category : report.categories) {
    Json kernels = Json::array();
    for (const profile::Entry& kernel : category.kernels) {
      kernels.push_back({{"kernel", kernel.name},
                         {"ms_per_step", kernel.seconds / steps * 1e3},
                         {"calls_per_step", static_cast<double>(kernel.calls) / steps},
                         {"gflops", kernel.flops / std::max(kernel.seconds, 1e-12) * 1e-9}});
    }
    const double gflops = category.flops / std::max(category.seconds, 1e-12) * 1e-9;
    time.push_back({{"part", category.name},
                    {"ms_per_step", category.seconds / steps * 1e3},
                    {"share", category.seconds * 1e3 / steps / report.ms},
                    {"gflops", gflops},
                    {"share_of_peak", gflops / report.peak},
                    {"kernels", kernels}});
  }
  return {{"model", to_json(report.facts)},
          {"precision", config::name_of(report.facts.precision)},
          {"batch", report.facts.micro_batch},
          {"context", report.facts.model.context},
          {"threads", report.threads},
          {"steps", report.steps},
          {"ms_per_step", report.ms},
          {"best_ms_per_step", report.best_ms},
          {"tokens_per_second", report.tokens_per_second},
          {"peak_gflops", report.peak},
          {"mfu_causal", report.mfu},
          {"mfu_full", report.mfu_full},
          {"loss", report.loss},
          {"time", time}};
}

std::string to_text(const Report& report) {
  const auto steps = static_cast<double>(report.steps);
  std::string text = label_lines(
      {{"model", fmt::format("{} ({}), {} parameters", report.facts.name, report.facts.model.kind_name(),
                             format_grouped(static_cast<uint64_t>(report.facts.counts.parameters)))},
       {"step", fmt::format("{} windows of {} = {} tokens in {}, {} threads", report.facts.micro_batch,
                            report.facts.model.context, report.tokens_per_step, config::name_of(report.facts.precision),
                            report.threads)},
       {"speed", fmt::format("{:.1f} tokens/s, {:.1f} ms a step over {} steps (best {:.1f} ms)",
                             report.tokens_per_second, report.ms, report.steps, report.best_ms)},
       {"peak", fmt::format("{:.0f} GFLOP/s measured on a large product in {}", report.peak,
                            config::name_of(report.facts.precision))},
       {"mfu", fmt::format("{:.1f}% of it (causal attention counted once), {:.1f}% (full-attention convention)",
                           report.mfu * 100, report.mfu_full * 100)}});
  Table table;
  table.column("where the time goes", Table::Align::left);
  for (const char* heading : {"ms/step", "share", "calls", "GFLOP/s", "of peak"}) table.column(heading);
  const auto row = [&](const std::string& name, double seconds, double flops, double calls) {
    const double gflops = flops / std::max(seconds, 1e-12) * 1e-9;
    table.row({name, fmt::format("{:.1f}", seconds / steps * 1e3),
               fmt::format("{:.1f}%", seconds / steps * 1e5 / report.ms), calls > 0 ? fmt::format("{:.0f}", calls) : "",
               flops > 0 ? fmt::format("{:.1f}", gflops) : "",
               flops > 0 ? fmt::format("{:.1f}%", gflops / report.peak * 100) : ""});
  };
  for (const Category& category : report.categories) {
    uint64_t calls = 0;
    for (const profile::Entry& kernel : category.kernels) calls += kernel.calls;
    row(category.name, category.seconds, category.flops, static_cast<double>(calls) / steps);
    if (category.kernels.size() < 2) continue;
    for (const profile::Entry& kernel : category.kernels) {
      row("  " + kernel.name, kernel.seconds, kernel.flops, static_cast<double>(kernel.calls) / steps);
    }
  }
  return text + "\n" + table.text();
}

int run(const Options& options) {
  RunConfig config = options.config.load();
  if (options.batch > 0) config.train.micro_batch = options.batch;
  if (options.precision) config.train.precision = *options.precision;
  if (options.device) config.run.device = *options.device;
  if (config.run.threads > 0) omp_set_num_threads(static_cast<int>(config.run.threads));

  Report report;
  report.facts = model_facts(config, options.config.paths().back().stem().string());
  report.threads = omp_get_max_threads();
  report.peak = matmul_peak(config.train.precision == Precision::bf16 ? DType::bf16 : DType::f32, report.threads);
  const Result result = measure(config, options);
  report.steps = options.steps;
  report.loss = result.loss;
  report.tokens_per_step = static_cast<double>(config.train.micro_batch * config.model.context);
  report.ms = result.total() * 1e3 / static_cast<double>(options.steps);
  report.best_ms = *std::min_element(result.step_seconds.begin(), result.step_seconds.end()) * 1e3;
  report.tokens_per_second = report.tokens_per_step / report.ms * 1e3;
  report.mfu = report.facts.counts.flops_causal * report.tokens_per_second / (report.peak * 1e9);
  report.mfu_full = report.facts.counts.flops_full * report.tokens_per_second / (report.peak * 1e9);
  report.categories = categories_of(result.profile, result.total());
  if (options.json) {
    print_json(to_json(report));
  } else {
    print(to_text(report));
  }
  return 0;
}

}  // namespace

void add_bench_train(CLI::App& group, Context& context) {
  CLI::App* command =
      add_command(group, "train", "training steps on made-up tokens, and where their time goes",
                  "  t6 bench train --config configs/demo_tpa.yaml --steps 3\n"
                  "  t6 bench train --config configs/t6_tpa_small.yaml --batch 4 --precision bf16 --json");
  auto options = options_for<Options>(command, context, &run);
  add_config_arguments(command, options->config);
  command->add_option("--batch", options->batch, "windows a step; without it the config's micro_batch")
      ->type_name("B")
      ->transform(integer_between(1, 65536));
  command->add_option("--steps", options->steps, "steps measured")
      ->type_name("N")
      ->transform(integer_between(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--warmup", options->warmup, "steps before those")
      ->type_name("N")
      ->transform(integer_between(0, 1'000'000))
      ->capture_default_str();
  command->add_option("--precision", options->precision, "of products and attention; without it the config's")
      ->type_name("TYPE")
      ->transform(one_of({"f32", "bf16"}));
  command->add_flag("--json", options->json, "print one JSON document");
}

}  // namespace t6::cli
