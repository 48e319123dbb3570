// t6 bench ops: the kernels of a training step, each alone and at the shapes that the step gives it.
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/profile.h"
#include "base/progress.h"
#include "cli/arguments.h"
#include "cli/bench.h"
#include "cli/config_arguments.h"
#include "cli/output.h"
#include "cli/profile_table.h"
#include "cli/step_ops.h"
#include "tensor/gpu.h"
#include "train/device.h"

namespace t6::cli {
namespace {

using Json = nlohmann::ordered_json;
using profile::Entry;

struct Options {
  ConfigArguments config;
  std::optional<DeviceChoice> device;
  std::optional<Precision> precision;
  int64_t batch = 0;
  std::vector<size_t> families;  // none: all
  int64_t repeats = 5;
  bool json = false;
};

constexpr double kCaches = 256 << 20;  // bytes: more than four times the second-level cache of an H100

// Runs of a work over so many copies of its inputs that each run finds caches without its data.
class Runs {
 public:
  Runs(Work work, const Maker& make) : call_(std::move(work.call)), make_(make) {
    sets_.push_back({std::move(work.inputs), {}});
    pass();  // chooses algorithms and maps memory
    double bytes = 0;
    for (const Entry& e : pass()) bytes += e.bytes;
    const auto copies = static_cast<size_t>(std::clamp(std::ceil(kCaches / std::max(bytes, 1.0)), 1.0, 64.0));
    while (sets_.size() < copies) {
      Set set;
      for (const Variable& v : sets_[0].inputs) set.inputs.emplace_back(v.value().clone(), v.impl()->leaf);
      sets_.push_back(std::move(set));
    }
    if (make.device().is_cuda()) {
      ahead_ = Tensor::empty({static_cast<int64_t>(kCaches) / 4}, DType::f32, make.device());
    }
  }

  // Sums over the sets.
  std::vector<Entry> pass() {
    // Kernels are timed from one end to the other: the host must not be what they wait for.
    for (size_t i = 0; ahead_.defined() && i < sets_.size(); i += 4) ahead_.fill(0);
    profile::start();
    std::vector<Variable> roots;
    for (Set& set : sets_) roots.push_back(root(set, call_(set.inputs)));
    for (const Variable& v : roots) {
      if (v.defined()) backward(v);
    }
    std::vector<Entry> entries = profile::stop();
    for (Set& set : sets_) {
      for (const Variable& v : set.inputs) {
        if (v.impl()->leaf == Leaf::input) v.set_grad({});
      }
    }
    return entries;
  }
  size_t sets() const { return sets_.size(); }

 private:
  struct Set {
    std::vector<Variable> inputs;
    std::vector<Tensor> gradients;  // of the outputs
  };

  // Something to call backward() on, that sends the outputs their gradients.
  Variable root(Set& set, std::vector<Variable> outputs) const {
    if (outputs.empty()) return {};
    if (set.gradients.empty()) {
      for (const Variable& v : outputs) set.gradients.push_back(make_.numbers(v.shape(), v.dtype()));
    }
    Variable made(Tensor::zeros({1}, DType::f32, outputs[0].device()));
    record("given", outputs, {&made}, [gradients = set.gradients](Gradients& g) {
      for (size_t i = 0; i < gradients.size(); ++i) g.give(static_cast<int>(i), gradients[i]);
    });
    return made;
  }

  std::function<std::vector<Variable>(const std::vector<Variable>&)> call_;
  const Maker& make_;
  std::vector<Set> sets_;
  Tensor ahead_;  // filled to keep a GPU busy
};

// One kernel in one op: the sums of its calls there, their time a median over repeats.
struct Row {
  std::string family, op, shape;
  Entry kernel;
};

// Products inside of an attention layer stand among the products.
std::vector<Row> measure(const StepOp& op, const Maker& make, int64_t repeats) {
  Runs runs(op.setup(), make);
  std::map<std::string, std::pair<Entry, std::vector<double>>> kernels;
  for (int64_t i = 0; i < repeats; ++i) {
    for (const Entry& e : runs.pass()) {
      if (e.name == "matmul" && op.family != "products") continue;
      auto& [kernel, seconds] = kernels[e.name];
      kernel = e;
      seconds.push_back(e.seconds);
    }
  }
  const auto sets = static_cast<double>(runs.sets());
  std::vector<Row> rows;
  for (auto& [name, measured] : kernels) {
    auto& [kernel, seconds] = measured;
    const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
    std::nth_element(seconds.begin(), middle, seconds.end());
    kernel.seconds = *middle / sets;
    kernel.calls /= runs.sets();
    kernel.flops /= sets;
    kernel.bytes /= sets;
    rows.push_back({op.family, op.name, op.shape, kernel});
  }
  return rows;
}

// The least time that a yardstick allows, as a share of the time taken; and which yardstick that is.
struct Bound {
  const char* by = "";
  double share = 0;
};
Bound bound_of(const Entry& e, const Yardsticks& yardsticks) {
  const double product = e.flops / (yardsticks.gflops * 1e9), memory = e.bytes / (yardsticks.gigabytes * 1e9);
  const double most = std::max(product, memory);
  return {most == 0 ? "" : product > memory ? "product" : "memory", most / std::max(e.seconds, 1e-12)};
}

std::string to_text(const std::vector<Row>& rows, const Yardsticks& yardsticks) {
  const bool tera = yardsticks.gflops >= 1e4;
  Table table;
  for (const char* heading : {"family", "op", "kernel", "shape"}) table.column(heading, Table::Align::left);
  for (const char* heading : {"calls", "time", "GB/s", tera ? "TFLOP/s" : "GFLOP/s", "of bound"}) table.column(heading);
  table.column("bound by", Table::Align::left);
  const Row* before = nullptr;
  for (const Row& row : rows) {
    const Entry& e = row.kernel;
    const auto rate = [&](double amount, double unit) {
      return amount > 0 ? fmt::format("{:.1f}", amount / e.seconds * unit) : "";
    };
    const Bound bound = bound_of(e, yardsticks);
    const bool same_family = before != nullptr && before->family == row.family;
    const bool same_op = same_family && before->op == row.op;
    if (before != nullptr && !same_family) table.line();
    table.row({same_family ? "" : row.family, same_op ? "" : row.op, e.name == "matmul" ? "" : e.name,
               same_op ? "" : row.shape, fmt::format("{}", e.calls), fmt::format("{:.1f} us", e.seconds * 1e6),
               rate(e.bytes, 1e-9), rate(e.flops, tera ? 1e-12 : 1e-9),
               bound.share > 0 ? fmt::format("{:.1f}%", bound.share * 100) : "", bound.by});
    before = &row;
  }
  return table.text();
}

Json to_json(const std::vector<Row>& rows, const Yardsticks& yardsticks) {
  Json all = Json::array();
  for (const Row& row : rows) {
    const Entry& e = row.kernel;
    const Bound bound = bound_of(e, yardsticks);
    all.push_back({{"family", row.family},
                   {"op", row.op},
                   {"kernel", e.name},
                   {"shape", row.shape},
                   {"calls", e.calls},
                   {"microseconds", e.seconds * 1e6},
                   {"gigabytes_per_second", e.bytes / e.seconds * 1e-9},
                   {"gflops", e.flops / e.seconds * 1e-9},
                   {"bound_by", bound.by},
                   {"share_of_bound", bound.share}});
  }
  return all;
}

int run(const Options& options) {
  RunConfig config = options.config.load();
  if (options.batch > 0) config.train.micro_batch = options.batch;
  if (options.precision) config.train.precision = *options.precision;
  if (options.device) config.run.device = *options.device;
  if (config.run.threads > 0) omp_set_num_threads(static_cast<int>(config.run.threads));
  const Device device = train::choose_device(config.run.device);
  train::set_determinism(config.run.determinism);
  const Yardsticks yardsticks = measure_yardsticks(device, dtype_for(config.train.precision));

  const Maker make(device);
  std::vector<StepOp> ops = step_ops(config, make);
  std::erase_if(ops, [&](const StepOp& op) {
    return !options.families.empty() && std::none_of(options.families.begin(), options.families.end(),
                                                     [&](size_t i) { return step_op_families()[i] == op.family; });
  });
  Progress progress({.label = "bench", .unit = "op", .total = ops.size(), .plain_lines = false, .summary = false});
  std::vector<Row> rows;
  for (const StepOp& op : ops) {
    std::ranges::move(measure(op, make, options.repeats), std::back_inserter(rows));
    progress.advance();
  }
  progress.finish();

  const std::string name = options.config.paths().back().stem().string();
  const std::string precision(config::name_of(config.train.precision));
  const std::string device_name = device.is_cuda() ? gpu::info(device.index).name : "cpu";
  if (options.json) {
    print_json({{"config", name},
                {"device", device.is_cuda() ? "cuda" : "cpu"},
                {"device_name", device_name},
                {"threads", omp_get_max_threads()},
                {"precision", precision},
                {"batch", config.train.micro_batch},
                {"context", config.model.context},
                {"measured_gflops", yardsticks.gflops},
                {"measured_gigabytes_per_second", yardsticks.gigabytes},
                {"ops", to_json(rows, yardsticks)}});
    return 0;
  }
  print(label_lines({{"model", fmt::format("{} ({}), {} windows of {} in {}", name, config.model.kind_name(),
                                           config.train.micro_batch, config.model.context, precision)},
                     {"device", device.is_cuda() ? device_name : fmt::format("cpu, {} threads", omp_get_max_threads())},
                     {"measured", describe(yardsticks)}}) +
        "\n" + to_text(rows, yardsticks));
  return 0;
}

}  // namespace

void add_bench_ops(CLI::App& group, Context& context) {
  CLI::App* command = add_command(group, "ops", "the kernels of a training step, each on its own",
                                  "  t6 bench ops --config configs/t6_tpa_small.yaml --device cuda --precision bf16\n"
                                  "  t6 bench ops --config configs/demo_tpa.yaml --batch 1 --op norm,swiglu");
  auto options = options_for<Options>(command, context, &run);
  add_config_arguments(command, options->config);
  add_device(command, options->device);
  add_precision(command, options->precision);
  command->add_option("--batch", options->batch, "windows a step; without it the config's micro_batch")
      ->type_name("B")
      ->transform(integer_between(1, 65536));
  add_list(command, "--op", options->families, "only these families", "NAME", one_of(step_op_families()));
  command->add_option("--repeats", options->repeats, "measurements, of which the median is printed")
      ->type_name("N")
      ->transform(integer_between(1, 1000))
      ->capture_default_str();
  command->add_flag("--json", options->json, "print one JSON document");
}

}  // namespace t6::cli
