// t6 checkpoint: list, verify and inspect checkpoints, offline.
#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <filesystem>
#include <numeric>
#include <optional>

#include "base/error.h"
#include "base/format.h"
#include "cli/command.h"
#include "cli/output.h"
#include "train/checkpoint_path.h"

namespace t6::cli {
namespace {

using Json = nlohmann::ordered_json;
using train::CheckpointPath;
using train::find_checkpoints;

struct Options {
  std::string path;
  bool deep = false;
  bool json = false;
};

std::string bytes_text(uint64_t bytes) {
  return format_bytes(static_cast<double>(bytes));
}

int list(const Options& options) {
  const CheckpointPath where = find_checkpoints(options.path);
  std::vector<checkpoint::Entry> entries = checkpoint::list(where.one ? where.path.parent_path() : where.path);
  if (where.one) std::erase_if(entries, [&](const auto& e) { return e.path.filename() != where.path.filename(); });
  if (options.json) {
    Json all = Json::array();
    for (const checkpoint::Entry& entry : entries) all.push_back(Json(checkpoint::to_json(entry)));
    print_json({{"path", where.path.string()}, {"checkpoints", all}});
    return 0;
  }
  Table table;
  table.column("checkpoint", Table::Align::left);
  table.column("step");
  table.column("ranks");
  table.column("tensors");
  table.column("size");
  table.column("state", Table::Align::left);
  for (const checkpoint::Entry& entry : entries) {
    const bool whole = entry.damage.empty();
    table.row({entry.path.string(), std::to_string(entry.step), whole ? std::to_string(entry.world) : "?",
               whole ? std::to_string(entry.tensor_count) : "?", whole ? bytes_text(entry.bytes) : "?",
               whole ? "complete" : "damaged: " + entry.damage});
  }
  print(entries.empty() ? fmt::format("{} holds no checkpoints\n", where.path.string()) : table.text());
  return 0;
}

// The checkpoint that a resumed run will use: the newest intact one of `all` or, when that is one alone, of its folder.
std::optional<std::filesystem::path> resumed_from(const std::vector<checkpoint::Verified>& all,
                                                  const CheckpointPath& where, bool deep) {
  for (auto one = all.rbegin(); !where.one && one != all.rend(); ++one) {
    if (one->damage.empty()) return one->path;
  }
  if (!where.one) return std::nullopt;
  const std::vector<checkpoint::Entry> entries = checkpoint::list(where.path.parent_path());
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    const bool known = entry->path.filename() == where.path.filename();
    const std::string damage = known ? all.front().damage : checkpoint::verify(entry->path, deep).front().damage;
    if (damage.empty()) return entry->path;
  }
  return std::nullopt;
}

int verify(const Options& options) {
  const CheckpointPath where = find_checkpoints(options.path);
  const std::vector<checkpoint::Verified> all = checkpoint::verify(where.path, options.deep);
  const auto damaged = std::count_if(all.begin(), all.end(), [](const auto& one) { return !one.damage.empty(); });
  std::optional<std::filesystem::path> resumed;
  if (damaged > 0) resumed = resumed_from(all, where, options.deep);
  if (options.json) {
    Json list = Json::array();
    for (const checkpoint::Verified& one : all) list.push_back(Json(checkpoint::to_json(one)));
    Json document = {{"path", where.path.string()}, {"damaged", damaged}, {"checkpoints", list}};
    if (damaged > 0) document["resumed_from"] = resumed ? Json(resumed->string()) : Json();
    print_json(document);
  } else {
    Table table;
    table.column("checkpoint", Table::Align::left);
    table.column("step");
    table.column("size");
    table.column("speed");
    table.column("state", Table::Align::left);
    for (const checkpoint::Verified& one : all) {
      const double speed = one.seconds > 0 ? static_cast<double>(one.bytes) / one.seconds : 0;
      table.row({one.path.string(), std::to_string(one.step), bytes_text(one.bytes), format_bytes(speed) + "/s",
                 one.damage.empty() ? "intact" : "damaged: " + one.damage});
    }
    print(all.empty() ? fmt::format("{} holds no checkpoints\n", where.path.string()) : table.text());
  }
  if (damaged > 0) {
    fail(ExitCode::checkpoint, "{} of {} checkpoints in {} are damaged; {}", damaged, all.size(), where.path.string(),
         resumed ? fmt::format(
                       "resuming will use {}, the newest intact one; restore the damaged from a copy, or delete them",
                       resumed->filename().string())
                 : "none is intact, so the run cannot be resumed: restore one from a copy, or start anew in another "
                   "run folder");
  }
  return 0;
}

std::string scalar_text(const nlohmann::json& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

int inspect(const Options& options) {
  const checkpoint::Inspected all = checkpoint::inspect(find_checkpoints(options.path).path);
  if (options.json) {
    print_json(Json(checkpoint::to_json(all)));
    return 0;
  }
  std::vector<std::pair<std::string, std::string>> lines{{"checkpoint", all.path.string()},
                                                         {"step", std::to_string(all.step)},
                                                         {"ranks", std::to_string(all.world)},
                                                         {"size", bytes_text(all.bytes)},
                                                         {"tensors", std::to_string(all.tensors.size())}};
  size_t parts = 0;
  for (const checkpoint::TensorFacts& tensor : all.tensors) parts += tensor.parts;
  lines.emplace_back("parts", std::to_string(parts));
  for (const auto& [name, value] : all.scalars.items()) lines.emplace_back(name, scalar_text(value));
  print(label_lines(lines) + "\n");
  Table table;
  table.column("tensor", Table::Align::left);
  table.column("type", Table::Align::left);
  table.column("shape", Table::Align::left);
  table.column("norm");
  table.column("min");
  table.column("max");
  table.column("not finite");
  table.column("parts");
  for (const checkpoint::TensorFacts& tensor : all.tensors) {
    table.row({tensor.name, std::string(name_of(tensor.dtype)), to_string(tensor.shape),
               fmt::format("{:.4g}", tensor.norm), fmt::format("{:.4g}", tensor.min), fmt::format("{:.4g}", tensor.max),
               std::to_string(tensor.nan_count + tensor.infinite_count), std::to_string(tensor.parts)});
  }
  print(table.text());
  if (const auto config = all.facts.find("config"); config != all.facts.end() && config->is_string()) {
    print("\nconfig\n" + config->get<std::string>());
  }
  return 0;
}

}  // namespace

void add_checkpoint(CLI::App& root, Context& context) {
  CLI::App* group = add_command(root, "checkpoint", "list, verify and inspect checkpoints",
                                "  t6 checkpoint list runs/demo_tpa\n  t6 checkpoint verify runs/demo_tpa");
  const auto add = [&](const char* name, const char* purpose, const char* example, int (*run)(const Options&)) {
    CLI::App* command = add_command(*group, name, purpose, example);
    auto options = options_for<Options>(command, context, run);
    command->add_option("RUN", options->path, "run folder, folder of checkpoints or one checkpoint")->required();
    command->add_flag("--json", options->json, "print one JSON document");
    return std::pair(command, options);
  };
  add("list", "the checkpoints of a run, oldest first; their payload is not read", "  t6 checkpoint list runs/demo_tpa",
      &list);
  const auto [command, options] =
      add("verify", "read every byte and compare it with the manifest; exit code 4 when something is damaged",
          "  t6 checkpoint verify runs/demo_tpa --deep", &verify);
  command->add_flag("--deep", options->deep, "also read every tensor and compare it with its own hash");
  add("inspect", "names, shapes, norms and extremes of the newest checkpoint's tensors, and its config",
      "  t6 checkpoint inspect runs/demo_tpa", &inspect);
}

}  // namespace t6::cli
