// t6 import: a model of others as a run folder with one checkpoint.
#include "checkpoint/import_model.h"

#include "base/error.h"
#include "base/format.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/foreign_file.h"
#include "checkpoint/output_folder.h"
#include "cli/command.h"
#include "cli/output.h"
#include "data/tokenizer.h"
#include "model/counts.h"
#include "train/run_folder.h"
#include "train/training_state.h"

namespace t6::cli {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTokenizerFile = "tokenizer.tiktoken";

struct Options {
  std::string folder;
  std::string out;
  bool force = false;
  bool json = false;
};

// Of the tokenizer files beside the weights, if t6 has such a tokenizer.
std::optional<data::Tokenizer> read_tokenizer(const fs::path& folder, int64_t rows) {
  for (const char* name : {"tokenizer.json", "vocab.json"}) {
    const fs::path path = folder / name;
    std::error_code ignored;
    if (!fs::exists(path, ignored)) continue;
    try {
      checkpoint::require_plain_file(path, data::Tokenizer::kMaxFileBytes);
      data::Tokenizer tokenizer = data::Tokenizer::load(path);
      if (static_cast<int64_t>(tokenizer.vocab_size()) <= rows) return tokenizer;
      log::warn("imported without its tokenizer: {} has {} ids, the embedding {} rows", path.string(),
                tokenizer.vocab_size(), rows);
    } catch (const Error& error) {
      log::warn("imported without its tokenizer: {}", error.what());
    }
    return std::nullopt;
  }
  log::info("imported without a tokenizer: {} has neither tokenizer.json nor vocab.json", folder.string());
  return std::nullopt;
}

// What an import writes.
bool wrote(const fs::directory_entry& entry) {
  std::error_code ignored;
  const fs::path name = entry.path().filename();
  const train::RunPaths run;
  const fs::file_type type = entry.symlink_status(ignored).type();
  if (type == fs::file_type::directory) return name == run.checkpoints().filename();
  return type == fs::file_type::regular &&
         (name == train::kImportedFile || name == kTokenizerFile || name == run.config().filename());
}

constexpr checkpoint::OwnEntries kImport{.mark = train::kImportedFile, .wrote = &wrote, .program = "t6 import"};

// The state, with a bar for what is read of it.
checkpoint::State watched(checkpoint::State state, Progress& bar) {
  for (checkpoint::TensorRef& ref : state.tensors) {
    ref.get = [get = ref.get, &bar] {
      Tensor values = get();
      bar.advance(values.bytes());
      return values;
    };
  }
  return state;
}

int run(const Options& options) {
  const checkpoint::ImportedModel model(options.folder);
  const std::optional<data::Tokenizer> tokenizer = read_tokenizer(options.folder, model.config().vocab_size);
  RunConfig config = default_config();
  config.model = model.config();
  config.run.dir = options.out;
  if (tokenizer) config.data.tokenizer = (fs::path(options.out) / kTokenizerFile).string();

  checkpoint::State state = model.state();
  checkpoint::OutputFolder folder(options.out, options.force, kImport,
                                  checkpoint::bytes_needed(state) + (uint64_t{16} << 20));
  const train::RunPaths paths{folder.path()};
  uint64_t bytes = 0;
  for (const checkpoint::TensorRef& ref : state.tensors) bytes += static_cast<uint64_t>(ref.shape.numel()) * 4;
  Progress bar({.label = "import", .total = bytes});
  state = watched(std::move(state), bar);
  state.scalars = train::to_scalars({});
  const nlohmann::json origin = model.origin();
  const std::string yaml = to_yaml(config);
  checkpoint::save(paths.checkpoints(), 0, state,
                   {.retention = {}, .facts = {{"config", yaml}, {"imported", origin}, {"run", model.run()}}});
  bar.finish();
  if (tokenizer) folder.add(kTokenizerFile, tokenizer->tiktoken_text());
  folder.add(paths.config().filename().string(), yaml);
  folder.add(train::kImportedFile, origin.dump(2) + "\n");
  folder.commit();

  const Transformer counted(model.config());
  const auto parameters = static_cast<uint64_t>(counted.parameters().count());
  const std::string_view format = checkpoint::name_of(model.format()), stored = checkpoint::name_of(model.type());
  if (options.json) {
    print_json({{"folder", options.folder},
                {"out", options.out},
                {"format", format},
                {"dtype", stored},
                {"attention", model.config().kind_name()},
                {"parameters", parameters},
                {"tokenizer", tokenizer.has_value()}});
    return 0;
  }
  print(label_lines(
      {{"imported", options.folder},
       {"format", fmt::format("{}, {}", format, stored)},
       {"model", fmt::format("{} with {} parameters", model.config().kind_name(), format_grouped(parameters))},
       {"run folder", options.out},
       {"go on with", fmt::format("t6 eval {} --data ..., t6 generate {} ..., t6 train ... train.weights={}",
                                  options.out, options.out, options.out)}}));
  return 0;
}

}  // namespace

void add_import(CLI::App& root, Context& context) {
  CLI::App* command =
      add_command(root, "import", "read a model of transformers, or of the TPA authors' code, into a run folder",
                  "  t6 import demo_tpa_hf --out runs/back\n"
                  "  t6 generate runs/back --prompt 'Once upon a time'\n"
                  "  t6 train --config my.yaml train.weights=runs/back    # goes on from these weights, at step 0\n"
                  "\n"
                  "  DIR holds config.json and model.safetensors (or shards with their index). Its model_type says "
                  "what it is: gpt2 (the\n"
                  "  authors' models), mistral, llama, deepseek_v3 (dense), t6. What t6 computes otherwise is refused "
                  "with the reason.\n"
                  "  Nothing of DIR is run, and pickles are not read.");
  auto options = options_for<Options>(command, context, &run);
  command->add_option("DIR", options->folder, "folder of the model")->required();
  command->add_option("--out", options->out, "run folder to make, which appears when it is complete")
      ->type_name("RUN")
      ->required();
  command->add_flag("--force", options->force, "replace an older import of that name, once the new one is complete");
  command->add_flag("--json", options->json, "print one JSON document");
  add_quiet(command, context);
}

}  // namespace t6::cli
