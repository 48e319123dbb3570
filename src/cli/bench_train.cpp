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
#include "cli/profile_table.h"
#include "ops/attention_backend.h"
#include "train/device.h"
#include "train/memory_advice.h"
#include "train/optimizer.h"
#include "train/peak.h"
#include "train/step.h"

namespace t6::cli {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct Options {
  ConfigArguments config;
  int64_t batch = 0;
  int64_t micro_steps = 1;
  int64_t steps = 5;
  int64_t warmup = 1;
  std::optional<Precision> precision;
  std::optional<DeviceChoice> device;
  bool profile = false;
  bool json = false;
};

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
  size_t memory = 0;          // peak of tensors, bytes
  gpu::Memory device_memory;  // of a GPU, after the steps
  MemoryEstimate estimate;
  std::string attention_forward, attention_backward;  // the kernels it ran on; empty on a CPU
  double total() const {
    double sum = 0;
    for (const double seconds : step_seconds) sum += seconds;
    return sum;
  }
};

// Steps as a run makes them: on a GPU each is asked for before the one before is done.
Result measure(const RunConfig& config, const Options& options, Device device, bool cuda_graph) {
  device.is_cuda() ? gpu::reset_peak() : memory::reset_peak();
  forget_attention_kernels();
  const DType compute = dtype_for(config.train.precision);
  Transformer model(config.model);
  model.allocate(compute, device);
  model.parameters().initialise(static_cast<uint64_t>(config.run.seed));
  train::AdamW optimizer(model.parameters(), config.optimizer);
  const train::MicroBatch batch = made_up_batch(config.model, config.train.micro_batch);
  train::TrainingStep step(model, optimizer,
                           {.micro_steps = options.micro_steps,
                            .accumulation = config.train.accumulation,
                            .recompute = config.train.recompute,
                            .clip_norm = config.optimizer.clip_norm,
                            .cuda_graph = cuda_graph});
  Result result;
  MemoryOptions sizes = train::memory_options(config, device);
  sizes.micro_steps = options.micro_steps;
  sizes.tree = false;        // a step alone adds up in turn
  sizes.async_save = false;  // nothing is saved
  result.estimate = estimate_memory(model, sizes);
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
  if (options.profile) profile::start();
  finished = Clock::now();
  run_steps(options.warmup, options.steps);
  if (options.profile) result.profile = profile::stop();
  progress.finish();
  result.attention_forward = attention_kernels_used(AttentionPass::forward);
  result.attention_backward = attention_kernels_used(AttentionPass::backward);
  result.memory = device.is_cuda() ? gpu::peak_bytes() : memory::usage().peak;
  if (device.is_cuda()) result.device_memory = gpu::memory();
  return result;
}

struct Report {
  ModelFacts facts;
  Device device;
  int threads = 1;
  int64_t micro_steps = 1;
  int64_t steps = 0;
  bool cuda_graph = false;
  Result result;
  train::DevicePeak peak;
  std::optional<Yardsticks> yardsticks;
  std::optional<ProfileTable> time;

  double tokens_per_step() const { return static_cast<double>(micro_steps * facts.micro_batch * facts.model.context); }
  double ms() const { return result.total() * 1e3 / static_cast<double>(steps); }
  double best_ms() const { return *std::min_element(result.step_seconds.begin(), result.step_seconds.end()) * 1e3; }
  double tokens_per_second() const { return tokens_per_step() / ms() * 1e3; }
  double mfu(double flops_per_token) const {
    return train::model_flops_utilisation(peak, flops_per_token, tokens_per_second());
  }
};

Json to_json(const Report& report) {
  const ModelCounts& counts = report.facts.counts;
  Json json{{"model", to_json(report.facts)},
            {"device", report.device.is_cuda() ? "cuda" : "cpu"},
            {"device_name", report.peak.device},
            {"precision", config::name_of(report.facts.precision)},
            {"batch", report.facts.micro_batch},
            {"micro_steps", report.micro_steps},
            {"context", report.facts.model.context},
            {"threads", report.threads},
            {"steps", report.steps},
            {"ms_per_step", report.ms()},
            {"best_ms_per_step", report.best_ms()},
            {"tokens_per_second", report.tokens_per_second()},
            {"peak_gflops", report.peak.flops * 1e-9},
            {"peak_source", report.peak.source},
            {"mfu_causal", report.mfu(counts.flops_causal)},
            {"mfu_full", report.mfu(counts.flops_full)},
            {"peak_memory_bytes", report.result.memory},
            {"estimated_memory_bytes", report.result.estimate.total()},
            {"loss", report.result.loss}};
  if (report.device.is_cuda()) {
    const gpu::Memory& memory = report.result.device_memory;
    json["reserved_memory_bytes"] = memory.reserved_peak;
    json["device_memory_in_use_bytes"] = memory.total - memory.free;
    json["attention"] = {{"backend", describe_attention_backend()},
                         {"forward", report.result.attention_forward},
                         {"backward", report.result.attention_backward}};
    json["cuda_graph"] = report.cuda_graph;
  }
  if (report.yardsticks) {
    json["measured_gflops"] = report.yardsticks->gflops;
    json["measured_gigabytes_per_second"] = report.yardsticks->gigabytes;
  }
  if (report.time) json["time"] = report.time->to_json();
  return json;
}

std::string to_text(const Report& report) {
  const ModelFacts& facts = report.facts;
  const std::string precision(config::name_of(facts.precision));
  std::vector<std::pair<std::string, std::string>> lines{
      {"model", fmt::format("{} ({}), {} parameters", facts.name, facts.model.kind_name(),
                            format_grouped(static_cast<uint64_t>(facts.counts.parameters)))},
      {"device", report.device.is_cuda() ? report.peak.device
                                         : fmt::format("{}, {} threads", report.peak.device, report.threads)},
      {"step", fmt::format("{}{} windows of {} = {} tokens in {}",
                           report.micro_steps > 1 ? fmt::format("{} micro-steps of ", report.micro_steps) : "",
                           facts.micro_batch, facts.model.context, report.tokens_per_step(), precision)},
      {"speed", fmt::format("{:.1f} tokens/s, {:.1f} ms a step over {} steps (best {:.1f} ms)",
                            report.tokens_per_second(), report.ms(), report.steps, report.best_ms())},
      {"mfu", fmt::format("{:.1f}% (causal attention counted once), {:.1f}% (full-attention convention)",
                          report.mfu(facts.counts.flops_causal) * 100, report.mfu(facts.counts.flops_full) * 100)},
      {"", fmt::format("of {} in {}, {}", product_rate(report.peak.flops * 1e-9), precision, report.peak.source)},
      {"memory", fmt::format("{} of tensors at their peak, {} estimated", format_memory(report.result.memory),
                             format_memory(static_cast<uint64_t>(report.result.estimate.total())))}};
  if (report.device.is_cuda()) {
    const gpu::Memory& memory = report.result.device_memory;
    lines.emplace_back("", fmt::format("{} reserved for them by the device; {} of its {} in use, by whomever",
                                       format_memory(memory.reserved_peak), format_memory(memory.total - memory.free),
                                       format_memory(memory.total)));
    lines.emplace_back("attention", fmt::format("{}; forward on {}, backward on {}", describe_attention_backend(),
                                                report.result.attention_forward, report.result.attention_backward));
  }
  if (!report.time) return label_lines(lines);
  lines.emplace_back("measured", describe(*report.yardsticks));
  return label_lines(lines) + "\n" + report.time->text();
}

int run(const Options& given) {
  Options options = given;
  RunConfig config = options.config.load();
  if (options.batch > 0) config.train.micro_batch = options.batch;
  if (options.precision) config.train.precision = *options.precision;
  if (options.device) config.run.device = *options.device;
  if (config.run.threads > 0) omp_set_num_threads(static_cast<int>(config.run.threads));

  Report report;
  report.device = train::choose_device(config.run.device);
  report.facts = model_facts(config, options.config.paths().back().stem().string(), report.device);
  train::set_determinism(config.run.determinism);
  report.threads = omp_get_max_threads();
  report.micro_steps = options.micro_steps;
  report.steps = options.steps;
  options.profile |= report.device.is_cpu();
  const DType precision = dtype_for(config.train.precision);
  if (options.profile) report.yardsticks = measure_yardsticks(report.device, precision);
  report.peak = report.device.is_cuda() ? train::device_peak(report.device, precision)
                                        : train::DevicePeak{"cpu", report.yardsticks->gflops * 1e9, precision,
                                                            "measured on a large product", /*can_rise=*/true};
  // A captured graph cannot be timed from inside.
  report.cuda_graph = report.device.is_cuda() && config.train.cuda_graph && !options.profile;
  report.result = measure(config, options, report.device, report.cuda_graph);
  if (report.device.is_cpu()) {
    train::utilisation_below_peak(report.peak, report.facts.counts.flops_causal,
                                  report.tokens_per_step() / report.best_ms() * 1e3);
    report.yardsticks->gflops = report.peak.flops * 1e-9;
  }
  if (options.profile) {
    report.time.emplace(report.result.profile, report.result.total(), report.steps, *report.yardsticks);
  }
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
                  "  t6 bench train --config configs/t6_tpa_small.yaml --batch 4 --precision bf16 --json\n"
                  "  t6 bench train --config configs/t6_tpa_small.yaml --device cuda --micro-steps 5\n"
                  "  t6 bench train --config configs/t6_tpa_small.yaml --device cuda --profile");
  auto options = options_for<Options>(command, context, &run);
  add_config_arguments(command, options->config);
  command->add_option("--batch", options->batch, "windows a micro-step; without it the config's micro_batch")
      ->type_name("B")
      ->transform(integer_between(1, 65536));
  command
      ->add_option(
          "--micro-steps", options->micro_steps,
          "micro-batches a step, whose gradients add up before one update: with 1 each pays for a whole update, "
          "which a run pays once in train.global_batch / (train.micro_batch x ranks) of them")
      ->type_name("N")
      ->transform(integer_between(1, 65536))
      ->capture_default_str();
  add_device(command, options->device);
  command->add_option("--steps", options->steps, "steps measured")
      ->type_name("N")
      ->transform(integer_between(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--warmup", options->warmup, "steps before those")
      ->type_name("N")
      ->transform(integer_between(0, 1'000'000))
      ->capture_default_str();
  add_precision(command, options->precision);
  command->add_flag("--profile", options->profile,
                    "time every kernel, always so on the CPU; on a GPU by events and without the captured graph");
  command->add_flag("--json", options->json, "print one JSON document");
}

}  // namespace t6::cli
