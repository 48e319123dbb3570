// t6 logits: what a model computes of given tokens, for comparing it with other programs.
#include "base/error.h"
#include "base/io.h"
#include "checkpoint/safetensors.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/loaded_model.h"
#include "cli/output.h"

namespace t6::cli {
namespace {

struct Options {
  std::string run;
  std::string out;
  std::vector<int64_t> ids;
  Precision precision = Precision::f32;
  DeviceChoice device = DeviceChoice::automatic;
};

namespace fs = std::filesystem;

// A safetensors file of one tensor "logits", [T, V] in f32: whole under its name, or not there.
void write_logits(const fs::path& path, const Tensor& logits) {
  io::make_directories(path.parent_path());
  const fs::path temporary = path.parent_path() / fmt::format(".{}.t6-new", path.filename().string());
  std::error_code ignored;
  fs::remove(temporary, ignored);  // of an interrupted one
  checkpoint::SafetensorsWriter file(temporary, {{.name = "logits", .shape = logits.shape()}});
  file.write(0, logits);
  file.finish();
  io::rename(temporary, path);
  io::sync_directory(io::parent_of(path));
}

int run(const Options& options) {
  std::error_code ignored;
  if (!fs::path(options.out).has_filename() || fs::is_directory(options.out, ignored)) {
    fail(ExitCode::usage, "--out: expected the name of a file to write, got the folder {}", options.out);
  }
  const LoadedModel loaded = load_model(options.run, options.precision, options.device);
  const auto count = static_cast<int64_t>(options.ids.size());
  if (count > loaded.config.model.context) {
    fail(ExitCode::usage, "--ids: expected at most {} ids, the model's context, got {}", loaded.config.model.context,
         count);
  }
  for (const int64_t id : options.ids) {
    if (id >= loaded.config.model.vocab_size) {
      fail(ExitCode::usage, "--ids: expected ids below {}, the model's vocabulary, got {}",
           loaded.config.model.vocab_size, id);
    }
  }
  const std::vector<int32_t> ids(options.ids.begin(), options.ids.end());
  const Tensor logits = loaded.model->logits(Tensor::from<int32_t>({1, count}, ids)).to(kCpu).to(DType::f32);
  write_logits(options.out, logits.view({count, loaded.config.model.vocab_size}));
  print(label_lines(
      {{"checkpoint", loaded.path.string()},
       {"step", std::to_string(loaded.step)},
       {"written", fmt::format("{}: logits [{}, {}] in f32", options.out, count, loaded.config.model.vocab_size)}}));
  return 0;
}

}  // namespace

void add_logits(CLI::App& root, Context& context) {
  CLI::App* command =
      add_command(root, "logits", "what a model computes of given tokens, to compare with other programs",
                  "  t6 logits runs/demo_tpa --ids 4095,257,1034 --out logits.safetensors");
  auto options = options_for<Options>(command, context, &run);
  add_run(command, options->run);
  add_list(command, "--ids", options->ids, "token ids of one sequence", "ID", integer_from(0))->required();
  command
      ->add_option("--out", options->out,
                   "safetensors file to write: tensor logits, one row a token, of what comes after it")
      ->type_name("FILE")
      ->required();
  add_precision(command, options->precision);
  add_device(command, options->device);
  add_quiet(command, context);
}

}  // namespace t6::cli
