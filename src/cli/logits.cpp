// t6 logits: what a model computes of given tokens, for comparing it with other programs.
#include <nlohmann/json.hpp>
#include <span>

#include "base/error.h"
#include "base/io.h"
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

// A safetensors file of one tensor "logits", [T, V] in f32.
std::string safetensors_of(const Tensor& logits) {
  const std::string_view data(static_cast<const char*>(logits.raw()), logits.bytes());
  nlohmann::ordered_json header{
      {"__metadata__", {{"format", "pt"}}},
      {"logits",
       {{"dtype", "F32"}, {"shape", {logits.dim(0), logits.dim(1)}}, {"data_offsets", {size_t{0}, data.size()}}}}};
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string file;
  for (size_t byte = 0; byte < 8; ++byte) file.push_back(static_cast<char>(text.size() >> 8 * byte));
  return file.append(text).append(data);
}

int run(const Options& options) {
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
  io::write_text_atomically(options.out, safetensors_of(logits.view({count, loaded.config.model.vocab_size})));
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
  command
      ->add_option("RUN", options->run,
                   "run folder or folder of checkpoints, whose newest intact one is taken, or one checkpoint")
      ->required();
  command->add_option("--ids", options->ids, "token ids of one sequence, commas between")
      ->type_name("ID,...")
      ->delimiter(',')
      ->transform(integer_from(0))
      ->required();
  command
      ->add_option("--out", options->out,
                   "safetensors file to write: tensor logits, one row a token, of what comes after it")
      ->type_name("FILE")
      ->required();
  command->add_option("--precision", options->precision, "of products and attention")
      ->type_name("TYPE")
      ->transform(one_of({"f32", "bf16"}))
      ->default_str("f32");
  add_device(command, options->device);
  add_quiet(command, context);
}

}  // namespace t6::cli
