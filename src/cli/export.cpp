// t6 export: a checkpoint in the formats of others.
#include "checkpoint/export_model.h"

#include <fmt/ranges.h>

#include <array>

#include "base/error.h"
#include "base/format.h"
#include "base/log.h"
#include "base/progress.h"
#include "checkpoint/checkpoint.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/output.h"
#include "data/huggingface_files.h"
#include "data/tokenizer.h"
#include "model/transformer.h"
#include "train/checkpoint_path.h"
#include "train/training_state.h"

namespace t6::cli {
namespace {

enum class Family { hf, official };

struct Options {
  std::string run;
  std::string out;
  Family format = Family::hf;
  bool llama = false;
  checkpoint::StoredType dtype = checkpoint::StoredType::f32;
  std::string tokenizer;
  bool no_tokenizer = false;
  double shard_gigabytes = 5;
  bool approximate = false;
  bool force = false;
  bool json = false;
};

// Of the config what the numbers depend on; nothing of where files lie.
constexpr std::array kProtocol{"preset",
                               "run.seed",
                               "model.init",
                               "model.rope_table",
                               "data.sampling",
                               "train.global_batch",
                               "train.accumulation",
                               "train.precision",
                               "optimizer.lr",
                               "optimizer.min_lr",
                               "optimizer.weight_decay",
                               "optimizer.decay",
                               "optimizer.clip_norm",
                               "schedule.kind",
                               "schedule.warmup_steps"};

// run.json: of an imported model what came with it.
nlohmann::json run_of(const checkpoint::Loaded& loaded, const RunConfig& config) {
  if (const auto run = loaded.facts.find("run"); run != loaded.facts.end() && run->is_object()) return *run;
  const train::RunPosition position = train::position_of(loaded);
  nlohmann::json run = {{"steps", position.step},
                        {"tokens seen", position.tokens},
                        {"training loss", position.loss},
                        {"data hash", position.consumed.hex()}};
  if (position.validation) {
    run["validation loss"] = position.validation->loss;
    run["validation loss at step"] = position.validation->step;
  }
  const auto fact = [&](const char* section, const char* key) {
    const nlohmann::json none;
    return loaded.facts.value(section, nlohmann::json::object()).value(key, none);
  };
  if (const nlohmann::json shards = fact("data", "shards"); shards.is_number()) {
    run["data"] = {
        {"shards", shards}, {"tokens", fact("data", "tokens")}, {"fingerprint", fact("data", "fingerprint")}};
  }
  if (const nlohmann::json commit = fact("environment", "t6/commit"); commit.is_string()) run["t6 commit"] = commit;
  if (const nlohmann::json step = fact("weights", "step"); step.is_number()) run["began with weights of step"] = step;
  nlohmann::json& protocol = run["config"] = nlohmann::json::object();
  for (const config::CatalogueEntry& entry : config::catalogue(config)) {
    for (const char* path : kProtocol) {
      if (entry.path() == path) protocol[path] = entry.value;
    }
  }
  return run;
}

data::Tokenizer load_tokenizer(const std::string& file, const ModelConfig& model) {
  data::Tokenizer tokenizer = data::Tokenizer::load(file);
  if (static_cast<int64_t>(tokenizer.vocab_size()) > model.vocab_size) {
    fail(ExitCode::data, "the tokenizer {} has {} ids, but the model only {} rows; it was trained with another one",
         file, tokenizer.vocab_size(), model.vocab_size);
  }
  return tokenizer;
}

checkpoint::DocumentTokens document_tokens(const data::Tokenizer& tokenizer) {
  return {tokenizer.end_of_text(), tokenizer.end_of_text()};
}

// The tokenizer files of `about`. Error(data) with the way out when `file` cannot be exported.
void add_tokenizer(const std::string& file, const ModelConfig& model, checkpoint::ExportOptions& about) {
  try {
    const data::Tokenizer tokenizer = load_tokenizer(file, model);
    about.tokens = document_tokens(tokenizer);
    for (data::NamedText& text : data::huggingface_files(tokenizer, model.context)) {
      about.tokenizer_files.emplace_back(std::move(text.name), std::move(text.text));
    }
    about.tokenizer_hash = tokenizer.hash_text();
  } catch (const Error& error) {
    fail(error.code(), "{}. Name another one with --tokenizer FILE, or export without: --no-tokenizer", error.what());
  }
}

// Without its files, the tokenizer still says what begins and ends a document.
void take_document_tokens(const std::string& file, const ModelConfig& model, checkpoint::ExportOptions& about) {
  try {
    about.tokens = document_tokens(load_tokenizer(file, model));
  } catch (const Error& error) {
    log::warn(
        "the run's tokenizer could not be asked for its end of text: {}. Check bos_token_id and eos_token_id of "
        "config.json",
        error.what());
  }
}

int run(const Options& options) {
  const checkpoint::Loaded loaded = train::facts_of(options.run);
  const RunConfig config = train::config_of(loaded.facts, loaded.path);
  checkpoint::ExportOptions about{.type = options.dtype,
                                  .shard_bytes = static_cast<uint64_t>(options.shard_gigabytes * 1e9),
                                  .replace = options.force,
                                  .approximate = options.approximate,
                                  .run = run_of(loaded, config)};
  if (options.format == Family::official) {
    if (options.llama) fail(ExitCode::usage, "--llama belongs to --format hf");
    about.format = checkpoint::ModelFormat::official;
  } else {
    about.format = checkpoint::hf_format(config.model, options.llama);
  }
  std::string tokenizer_file = options.tokenizer;
  if (tokenizer_file.empty() && config.data.tokenizer) {
    tokenizer_file = train::tokenizer_file(config, loaded.path).string();
  }
  about.tokens =
      checkpoint::document_tokens_of(loaded.facts.value("imported", nlohmann::json()), config.model.vocab_size);
  if (tokenizer_file.empty()) {
    if (!options.no_tokenizer) {
      log::info("exported without tokenizer files: the run names no data.tokenizer; --tokenizer FILE adds them");
    }
  } else if (options.no_tokenizer) {
    take_document_tokens(tokenizer_file, config.model, about);
  } else {
    add_tokenizer(tokenizer_file, config.model, about);
  }
  std::optional<Progress> bar;
  about.progress = [&bar](uint64_t written, uint64_t all) {
    if (!bar) bar.emplace(ProgressOptions{.label = "export", .total = all});
    bar->set(written);
  };
  const checkpoint::Exported exported = checkpoint::export_model(loaded.path, config.model, options.out, about);
  if (bar) bar->finish();
  const std::string_view format = checkpoint::name_of(about.format);
  if (options.json) {
    print_json({{"checkpoint", loaded.path.string()},
                {"step", loaded.step},
                {"out", options.out},
                {"format", format},
                {"dtype", options.dtype == checkpoint::StoredType::bf16 ? "bf16" : "f32"},
                {"tensors", exported.tensors},
                {"bytes", exported.bytes},
                {"files", exported.files}});
    return 0;
  }
  print(label_lines(
      {{"checkpoint", loaded.path.string()},
       {"exported to", options.out},
       {"format", std::string(format)},
       {"tensors", fmt::format("{}, {}", exported.tensors, format_bytes(static_cast<double>(exported.bytes)))},
       {"files", fmt::format("{}", fmt::join(exported.files, ", "))}}));
  return 0;
}

}  // namespace

void add_export(CLI::App& root, Context& context) {
  CLI::App* command = add_command(
      root, "export", "write a checkpoint in the format of transformers, or of the TPA authors' code",
      "  t6 export runs/demo_tpa --out demo_tpa_hf\n"
      "  t6 export runs/demo_tpa --out demo_tpa_bf16 --dtype bf16 --tokenizer data/book.tiktoken\n"
      "  t6 export runs/t6_mha_small --out mha_llama --llama\n"
      "  t6 export runs/t6_tpa_small/checkpoints/step-00001000 --out tpa_official --format official "
      "--approximate\n"
      "\n"
      "  With --format hf: mha, gqa and mqa become MistralForCausalLM, mla DeepseekV3ForCausalLM, tpa and tpa_kvonly\n"
      "  T6ForCausalLM, whose code is written beside the weights. In Python:\n"
      "    AutoModelForCausalLM.from_pretrained(\"demo_tpa_hf\", trust_remote_code=True)\n"
      "  The folder holds model.safetensors, config.json, tokenizer files, run.json and README.md, the model card.\n"
      "  t6 import reads it back.");
  auto options = options_for<Options>(command, context, &run);
  add_run(command, options->run);
  command->add_option("--out", options->out, "folder to write, which appears when it is complete")
      ->type_name("DIR")
      ->required();
  command
      ->add_option("--format", options->format,
                   "hf: what AutoModelForCausalLM loads; official: as the TPA authors' code")
      ->type_name("FORMAT")
      ->transform(one_of({"hf", "official"}))
      ->default_str("hf");
  command->add_flag("--llama", options->llama,
                    "mha as LlamaForCausalLM; without it MistralForCausalLM, which computes the same");
  command
      ->add_option("--dtype", options->dtype, "type of the numbers: f32 as trained, exact; bf16 half as large, rounded")
      ->type_name("TYPE")
      ->transform(one_of({"f32", "bf16"}))
      ->default_str("f32");
  CLI::Option* tokenizer =
      command
          ->add_option("--tokenizer", options->tokenizer,
                       "tokenizer whose files are written beside the weights; without it the run's data.tokenizer")
          ->type_name("FILE");
  command->add_flag("--no-tokenizer", options->no_tokenizer, "the weights without tokenizer files")
      ->excludes(tokenizer);
  command
      ->add_option("--shard-size", options->shard_gigabytes,
                   "largest weights file in GB (1e9 bytes); more become several files")
      ->type_name("GB")
      ->transform(number_between(0, 1e6, true))
      ->default_str("5");
  command->add_flag("--approximate", options->approximate,
                    "also where the format rounds its RoPE tables otherwise than the model (model.rope_table)");
  command->add_flag("--force", options->force,
                    "replace an older export of that name, which holds nothing else, once the new one is complete");
  command->add_flag("--json", options->json, "print one JSON document");
  add_quiet(command, context);
}

}  // namespace t6::cli
