// t6 bench decode: the time of one generated token against the length of the caches, for every attention kind.
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/config_scalar.h"
#include "base/error.h"
#include "base/format.h"
#include "base/io.h"
#include "base/progress.h"
#include "cli/arguments.h"
#include "cli/bench.h"
#include "cli/decode_speed.h"
#include "cli/output.h"
#include "cli/shipped_configs.h"
#include "tensor/gpu.h"
#include "train/device.h"
#include "train/plot.h"

namespace t6::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kLongest = int64_t{1} << 20;  // as model.context

struct Options {
  std::vector<std::string> configs;
  std::vector<size_t> kinds;  // of kinds_and_all()
  int64_t size = 0;           // of shipped_sizes()
  std::string folder;
  std::vector<std::string> lengths{"256..32768"};
  std::vector<Precision> precisions{Precision::f32};
  DeviceChoice device = DeviceChoice::automatic;
  int64_t batch = 1;
  int64_t tokens = 16;
  int64_t threads = 0;
  std::string out;
  bool json = false;
};

std::vector<std::string> kinds_and_all() {
  std::vector<std::string> words(kAttentionKindNames.begin(), kAttentionKindNames.end());
  words.emplace_back("all");
  return words;
}

// "512", or "256..4096": 256 doubled until it is beyond 4096. What was not understood, or nothing.
std::string parse_lengths(const std::string& text, std::set<int64_t>& lengths) {
  const size_t dots = text.find("..");
  int64_t from = 0, to = 0;
  const bool whole = dots == std::string::npos ? !config::parse_integer(text, from) && (to = from, true)
                                               : !config::parse_integer(text.substr(0, dots), from) &&
                                                     !config::parse_integer(text.substr(dots + 2), to);
  if (!whole || from < 1 || to < from || to > kLongest) {
    return fmt::format("expected a length from 1 to {} or a range such as 256..32768, which doubles, got {}", kLongest,
                       config::quote(text));
  }
  for (int64_t length = from; length <= to; length *= 2) lengths.insert(length);
  return {};
}

CLI::Validator length_or_range() {
  return CLI::Validator(
      [](std::string& text) {
        std::set<int64_t> ignored;
        return parse_lengths(text, ignored);
      },
      "lengths or ranges that double");
}

std::vector<std::filesystem::path> configs_of(const Options& options) {
  std::vector<std::filesystem::path> paths(options.configs.begin(), options.configs.end());
  if (!paths.empty() && options.kinds.empty()) return paths;
  const std::filesystem::path folder = shipped_configs(options.folder);
  const auto wanted = [&](size_t kind) {
    return options.kinds.empty() || std::any_of(options.kinds.begin(), options.kinds.end(), [&](size_t word) {
             return word == kind || word == kAttentionKindNames.size();
           });
  };
  for (size_t kind = 0; kind < kAttentionKindNames.size(); ++kind) {
    if (!wanted(kind)) continue;
    paths.push_back(
        folder / shipped_config_name(kAttentionKindNames[kind], shipped_sizes().at(static_cast<size_t>(options.size))));
  }
  return paths;
}

struct Job {
  std::string name;
  ModelConfig model;
  DecodeOptions options;
};

// Bytes that weights and caches may take.
double memory_of(Device device) {
  if (device.is_cuda()) return static_cast<double>(gpu::memory().free);
  return static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
}

std::vector<Job> jobs_of(const Options& options, Device device) {
  std::set<int64_t> lengths;
  for (const std::string& text : options.lengths) parse_lengths(text, lengths);
  const double memory = memory_of(device);
  std::vector<Job> jobs;
  for (const std::filesystem::path& path : configs_of(options)) {
    const ModelConfig model = load_run_config(std::array{path}, {}).model;
    for (const Precision precision : options.precisions) {
      Job job{path.stem().string(), model, {{lengths.begin(), lengths.end()}, options.batch, options.tokens}};
      job.options.precision = dtype_for(precision);
      job.options.device = device;
      const double bytes = decode_memory(model, job.options);
      if (bytes > memory) {
        fail(ExitCode::usage,
             "{} in {}: weights and caches of {} sequences of {} tokens are {}, but {} has {}; ask for "
             "shorter --lengths, a smaller --batch or --size",
             job.name, config::name_of(precision), options.batch, *lengths.rbegin(),
             format_memory(static_cast<uint64_t>(bytes)), device.is_cpu() ? "this machine" : "this GPU",
             format_memory(static_cast<uint64_t>(memory)));
      }
      jobs.push_back(std::move(job));
    }
  }
  return jobs;
}

struct Report {
  int64_t batch = 1, tokens = 0;
  int threads = 1;
  Device device = kCpu;
  std::vector<DecodeSpeed> models;

  std::string device_name() const {
    return device.is_cuda() ? gpu::info(device.index).name : fmt::format("cpu, {} threads", threads);
  }
};

Json to_json(const Report& report) {
  Json models = Json::array();
  for (const DecodeSpeed& speed : report.models) {
    Json points = Json::array();
    for (const DecodePoint& p : speed.points) {
      points.push_back({{"length", p.length},
                        {"milliseconds", p.seconds * 1e3},
                        {"best_milliseconds", p.best_seconds * 1e3},
                        {"tokens_per_second", p.tokens_per_second(report.batch)},
                        {"cache_bytes", p.cache_bytes},
                        {"bytes_per_step", p.bytes},
                        {"gigabytes_per_second", p.gigabytes_per_second()},
                        {"share_of_read_rate", p.gigabytes_per_second() / speed.read_rate},
                        {"attention_milliseconds", p.attention_seconds * 1e3},
                        {"attention_cache_bytes", p.attention_bytes},
                        {"attention_gigabytes_per_second", p.attention_gigabytes_per_second()}});
    }
    models.push_back({{"config", speed.name},
                      {"kind", speed.kind},
                      {"precision", name_of(speed.precision)},
                      {"parameters", speed.parameters},
                      {"weight_bytes", speed.weight_bytes},
                      {"cache_bytes_per_token", speed.cache_bytes_per_token},
                      {"measured_read_gigabytes_per_second", speed.read_rate},
                      {"points", points}});
  }
  return {{"device", report.device.is_cuda() ? "cuda" : "cpu"},
          {"device_name", report.device_name()},
          {"threads", report.threads},
          {"batch", report.batch},
          {"tokens", report.tokens},
          {"models", models}};
}

std::string table_of(const Report& report) {
  Table table;
  for (const char* heading : {"model", "precision"}) table.column(heading, Table::Align::left);
  for (const char* heading : {"cached", "cache B/token", "ms/step", "best", "tokens/s", "MB/step", "GB/s", "of memory",
                              "attention ms", "cache GB/s"}) {
    table.column(heading);
  }
  for (const DecodeSpeed& speed : report.models) {
    if (&speed != &report.models.front()) table.line();
    for (const DecodePoint& p : speed.points) {
      const bool first = &p == &speed.points.front();
      table.row({first ? speed.name : "", first ? std::string(name_of(speed.precision)) : "",
                 format_grouped(static_cast<uint64_t>(p.length)),
                 first ? format_grouped(static_cast<uint64_t>(speed.cache_bytes_per_token)) : "",
                 fmt::format("{:.2f}", p.seconds * 1e3), fmt::format("{:.2f}", p.best_seconds * 1e3),
                 fmt::format("{:.1f}", p.tokens_per_second(report.batch)), fmt::format("{:.0f}", p.bytes * 1e-6),
                 fmt::format("{:.1f}", p.gigabytes_per_second()),
                 fmt::format("{:.0f}%", p.gigabytes_per_second() / speed.read_rate * 100),
                 fmt::format("{:.2f}", p.attention_seconds * 1e3),
                 fmt::format("{:.1f}", p.attention_gigabytes_per_second())});
    }
  }
  return table.text();
}

std::vector<train::Curve> curves_of(const Report& report) {
  const bool several = std::any_of(report.models.begin(), report.models.end(), [&](const DecodeSpeed& speed) {
    return speed.precision != report.models.front().precision;
  });
  std::vector<train::Curve> curves;
  for (const DecodeSpeed& speed : report.models) {
    train::Curve curve{several ? fmt::format("{} {}", speed.name, name_of(speed.precision)) : speed.name, {}, {}};
    for (const DecodePoint& p : speed.points) curve.train.push_back({p.length, 0, p.seconds * 1e3});
    curves.push_back(std::move(curve));
  }
  return curves;
}

std::string to_text(const Report& report) {
  const std::string tokens =
      report.batch == 1 ? "a token of one sequence" : fmt::format("a token for each of {} sequences", report.batch);
  const auto [least, most] =
      std::minmax_element(report.models.begin(), report.models.end(),
                          [](const auto& a, const auto& b) { return a.read_rate < b.read_rate; });
  return label_lines({{"device", report.device_name()},
                      {"memory", fmt::format("{:.1f} to {:.1f} GB/s read, the better of before and after each model",
                                             least->read_rate, most->read_rate)},
                      {"step", fmt::format("{}; medians of {}", tokens, report.tokens)}}) +
         "\n" + table_of(report) +
         "\ncache B/token: what one more token of a sequence takes. MB/step: the fewest bytes a step reads, all "
         "weights and\ncaches once; GB/s: these over the time; of memory: of the rate measured, above 100% where the "
         "processor's\ncaches hold a part, or memory was busier then. attention ms: the kernels that read caches.\n";
}

int run(const Options& options) {
  if (!options.out.empty() && !options.out.ends_with(".svg")) {
    fail(ExitCode::usage, "--out: plots are written as SVG; expected a name that ends in .svg, got {}", options.out);
  }
  const Device device = train::choose_device(options.device, "--device cuda");
  const std::vector<Job> jobs = jobs_of(options, device);
  if (options.threads > 0) omp_set_num_threads(static_cast<int>(options.threads));
  Report report{options.batch, options.tokens, omp_get_max_threads(), device, {}};
  uint64_t steps = 0;
  for (const Job& job : jobs) steps += job.options.lengths.size() * static_cast<uint64_t>(job.options.steps_a_length());
  Progress progress({.label = "bench", .unit = "step", .total = steps, .plain_lines = false, .summary = false});
  for (const Job& job : jobs) {
    progress.note(job.name);
    report.models.push_back(measure_decode(job.name, job.model, job.options, [&] { progress.advance(); }));
    device.is_cuda() ? gpu::release_cached() : memory::release_cached();
  }
  progress.finish();

  const std::vector<train::Curve> curves = curves_of(report);
  const train::PlotOptions plot{.title = "Time of a decoded token against cached tokens",
                                .x = train::PlotAxis::lengths,
                                .y_name = "milliseconds a step"};
  if (!options.out.empty()) io::write_text_atomically(options.out, train::draw_svg(curves, plot));
  if (options.json) {
    print_json(to_json(report));
    return 0;
  }
  print(to_text(report));
  if (!options.out.empty()) {
    print(fmt::format("{}: the curves of {} model{}\n", options.out, curves.size(), curves.size() == 1 ? "" : "s"));
  } else if (jobs.front().options.lengths.size() > 1) {
    const ProgressTerminal error = ProgressTerminal::standard_error();
    const bool color = ::isatty(STDOUT_FILENO) == 1 && error.color;
    print("\nmilliseconds a step\n" + train::draw_terminal(curves, plot.x, 100, 20, color, error.unicode));
  }
  return 0;
}

}  // namespace

void add_bench_decode(CLI::App& group, Context& context) {
  CLI::App* command = add_command(
      group, "decode", "the time of a generated token against cached tokens, for every attention kind",
      "  t6 bench decode --size small --precision bf16\n"
      "  t6 bench decode --kinds mha,tpa --lengths 256..32768 --precision f32,bf16 --out decode.svg\n"
      "  t6 bench decode --config configs/demo_tpa.yaml --lengths 512,4096 --batch 4 --json\n"
      "  t6 bench decode --kinds tpa,gqa,mla --device cuda --precision bf16 --lengths 4096..262144 --batch 16\n"
      "\n"
      "Caches are filled with random numbers, not by a prompt; lengths may exceed the model's context.\n"
      "To decode a token all weights and caches must be read once: these bytes over the measured rate\n"
      "of memory are the least time there can be, and `of memory` is how near to it a model comes. Above 100%\n"
      "the processor's caches hold a part of them, or memory was busier when its rate was measured.");
  auto options = options_for<Options>(command, context, &run);
  command->add_option("--config", options->configs, "config of a model; give the option again for another model")
      ->type_name("FILE")
      ->allow_extra_args(false);
  add_list(command, "--kinds", options->kinds,
           "the shipped configs of these kinds; all when neither this nor --config is given", "KIND",
           one_of(kinds_and_all()));
  add_shipped_size(command, options->size, options->folder, "which parameter budget --kinds takes");
  add_list(command, "--lengths", options->lengths, "cached tokens: numbers, or FROM..TO, which doubles", "N",
           length_or_range())
      ->default_str("256..32768");
  add_list(command, "--precision", options->precisions, "of weights, products and caches, one after the other", "TYPE",
           one_of({"f32", "bf16"}))
      ->default_str("f32");
  add_device(command, options->device);
  command->add_option("--batch", options->batch, "sequences decoded together")
      ->type_name("B")
      ->transform(integer_between(1, 65536))
      ->capture_default_str();
  command->add_option("--tokens", options->tokens, "steps measured at each length, of which the median is printed")
      ->type_name("N")
      ->transform(integer_between(1, 100'000))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "CPU threads; 0: all")
      ->type_name("N")
      ->transform(integer_between(0, 4096))
      ->capture_default_str();
  command->add_option("--out", options->out, "SVG file with the plot, which is drawn here without it")
      ->type_name("FILE");
  command->add_flag("--json", options->json, "print one JSON document");
}

}  // namespace t6::cli
