// t6 info: parameters, FLOPs and cache of models, one or side by side.
#include <array>

#include "base/error.h"
#include "base/format.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/model_facts.h"
#include "cli/output.h"
#include "cli/shipped_configs.h"
#include "train/run_folder.h"

namespace t6::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::vector<std::string> configs;
  bool all = false;
  int64_t size = 0;  // of shipped_sizes()
  std::string folder;
  bool json = false;
};

// Of a config, or of a run by the config that lies in its folder.
ModelFacts facts_of(const fs::path& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) {
    const fs::path config = train::RunPaths{path}.config();
    if (!fs::exists(config, ignored)) {
      fail(ExitCode::usage, "{}: expected a config or a run folder; this folder holds no {}", path.string(),
           config.filename().string());
    }
    const fs::path folder = path.has_filename() ? path : path.parent_path();
    return model_facts(load_run_config(std::array{config}, {}), folder.filename().string());
  }
  return model_facts(load_run_config(std::array{path}, {}), path.stem().string());
}

std::vector<ModelFacts> collect(const Options& options) {
  std::vector<ModelFacts> all;
  for (const std::string& config : options.configs) all.push_back(facts_of(config));
  if (!options.all) return all;
  const fs::path folder = shipped_configs(options.folder);
  const std::string& size = shipped_sizes().at(static_cast<size_t>(options.size));
  for (const std::string_view kind : kAttentionKindNames) {
    all.push_back(facts_of(folder / shipped_config_name(kind, size)));
  }
  return all;
}

std::string table_of(const std::vector<ModelFacts>& all) {
  Table table;
  table.column("config", Table::Align::left);
  for (const char* heading : {"parameters", "in products", "MFLOP/token", "full conv.", "cache/token/layer",
                              "cache B/token", "cache of a window", "memory to train"}) {
    table.column(heading);
  }
  for (const ModelFacts& facts : all) {
    const ModelCounts& counts = facts.counts;
    table.row({facts.name, format_grouped(static_cast<uint64_t>(counts.parameters)),
               format_grouped(static_cast<uint64_t>(counts.matmul_parameters)),
               fmt::format("{:.1f}", counts.flops_causal / 1e6), fmt::format("{:.1f}", counts.flops_full / 1e6),
               std::to_string(counts.cache_numbers / facts.model.layers),
               format_grouped(static_cast<uint64_t>(facts.cache_bytes_per_token())),
               format_memory(static_cast<uint64_t>(facts.cache_bytes_per_token() * facts.model.context)),
               format_memory(static_cast<uint64_t>(facts.memory.total()))});
  }
  return table.text() +
         "\nMFLOP/token: to train, forward and backward, causal attention counted once; full conv.: the "
         "full-attention\n"
         "convention. Cache: what decoding keeps, in numbers a token and layer, and in bytes of bf16 over all "
         "layers.\n";
}

int run(const Options& options) {
  if (options.configs.empty() && !options.all) {
    fail(ExitCode::usage, "info: expected a config or --all; for example t6 info configs/t6_tpa_small.yaml");
  }
  const std::vector<ModelFacts> all = collect(options);
  if (options.json) {
    nlohmann::ordered_json models = nlohmann::ordered_json::array();
    for (const ModelFacts& facts : all) models.push_back(to_json(facts));
    print_json({{"models", models}});
  } else if (all.size() == 1) {
    print(label_lines(describe(all.front())));
  } else {
    print(table_of(all));
  }
  return 0;
}

}  // namespace

void add_info(CLI::App& root, Context& context) {
  CLI::App* command = add_command(root, "info", "parameters, FLOPs and cache of models, one or side by side",
                                  "  t6 info configs/t6_tpa_small.yaml\n  t6 info --all --size medium\n"
                                  "  t6 info configs/t6_tpa_small.yaml configs/t6_mha_small.yaml --json");
  auto options = options_for<Options>(command, context, &run);
  command->add_option("CONFIG", options->configs, "config files or run folders; each is a model of its own");
  command->add_flag("--all", options->all, "the shipped config of every attention kind, at one parameter budget");
  add_shipped_size(command, options->size, options->folder, "which parameter budget --all shows");
  command->add_flag("--json", options->json, "print one JSON document");
}

}  // namespace t6::cli
