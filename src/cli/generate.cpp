// t6 generate: continues a prompt with a trained model, token by token.
#include "model/generate.h"

#include <unistd.h>

#include <chrono>

#include "base/error.h"
#include "base/io.h"
#include "base/log.h"
#include "cli/arguments.h"
#include "cli/command.h"
#include "cli/loaded_model.h"
#include "cli/output.h"
#include "cli/tokenizer_fit.h"
#include "cli/utf8_stream.h"
#include "data/tokenizer.h"

namespace t6::cli {
namespace {

constexpr uint64_t kMaxPromptBytes = uint64_t{16} << 20;

struct Options {
  std::string run;
  std::string prompt;
  std::string prompt_file;
  std::string tokenizer;
  int64_t tokens = 200;
  double temperature = 0.8;
  int64_t top_k = 50;
  double top_p = 1.0;
  int64_t seed = 0;
  Precision precision = Precision::f32;
  DeviceChoice device = DeviceChoice::automatic;
};

// A document begins with end-of-text, as in training.
std::vector<int32_t> prompt_ids(const data::Tokenizer& tokenizer, const Options& options) {
  const std::string text =
      options.prompt_file.empty() ? options.prompt : io::read_text(options.prompt_file, kMaxPromptBytes);
  std::vector<int32_t> ids{static_cast<int32_t>(tokenizer.end_of_text())};
  for (const uint32_t id : tokenizer.encode(text)) ids.push_back(static_cast<int32_t>(id));
  return ids;
}

int run(const Options& options) {
  const LoadedModel loaded = load_model(options.run, options.precision, options.device);
  const data::Tokenizer tokenizer = tokenizer_of(loaded, options.run, options.tokenizer);
  const auto vocabulary = static_cast<int64_t>(tokenizer.vocab_size());
  const std::vector<int32_t> prompt = prompt_ids(tokenizer, options);
  const SamplingOptions sampling{.temperature = options.temperature,
                                 .top_k = options.top_k,
                                 .top_p = options.top_p,
                                 .seed = static_cast<uint64_t>(options.seed)};
  log::info("{}, step {}", loaded.path.string(), loaded.step);

  Utf8Stream text(::isatty(STDOUT_FILENO) == 1);
  const auto stop = static_cast<int32_t>(tokenizer.end_of_text());
  for (size_t i = 1; i < prompt.size(); ++i) print(text.add(tokenizer.token(static_cast<uint32_t>(prompt[i]))));

  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  std::optional<Clock::time_point> first;
  const std::vector<int32_t> made =
      generate(*loaded.model, prompt, options.tokens, vocabulary, stop, sampling, [&](int32_t id) {
        if (!first) first = Clock::now();
        if (id != stop) print(text.add(tokenizer.token(static_cast<uint32_t>(id))));
        return true;
      });
  const double prefill = first ? std::chrono::duration<double>(*first - start).count() : 0;
  const double decode = first ? std::chrono::duration<double>(Clock::now() - *first).count() : 0;
  print(text.finish() + "\n");
  const auto decoded = static_cast<double>(made.size()) - 1;
  log::info("{} tokens{}: {:.1f} tokens/s, after {:.0f} ms for a prompt of {}", made.size(),
            !made.empty() && made.back() == stop ? " and the end of the text" : "",
            decoded > 0 && decode > 0 ? decoded / decode : 0, prefill * 1000, prompt.size());
  return 0;
}

}  // namespace

void add_generate(CLI::App& root, Context& context) {
  CLI::App* command = add_command(root, "generate", "continue a prompt with a trained model",
                                  "  t6 generate runs/demo_tpa --prompt \"Once upon a time\"\n"
                                  "  t6 generate runs/demo_tpa --prompt-file start.txt --tokens 500 --temperature 0.7 "
                                  "--top-k 40 --seed 7");
  auto options = options_for<Options>(command, context, &run);
  add_run(command, options->run);
  CLI::Option* prompt = command->add_option("--prompt", options->prompt, "text to continue; without it a text is begun")
                            ->type_name("TEXT");
  command->add_option("--prompt-file", options->prompt_file, "file with the text to continue")
      ->type_name("FILE")
      ->excludes(prompt);
  command->add_option("--tokenizer", options->tokenizer, "tokenizer file; without it the run's data.tokenizer")
      ->type_name("FILE");
  command->add_option("--tokens", options->tokens, "new tokens at most; the end of a text ends earlier")
      ->type_name("N")
      ->transform(integer_between(1, 10'000'000))
      ->capture_default_str();
  command
      ->add_option("--temperature", options->temperature, "below 1 safer, above wilder; 0: always the likeliest token")
      ->type_name("X")
      ->transform(number_between(0, 100))
      ->capture_default_str();
  command->add_option("--top-k", options->top_k, "draw from the K likeliest tokens; 0: from all")
      ->type_name("K")
      ->transform(integer_between(0, 100'000'000))
      ->capture_default_str();
  command->add_option("--top-p", options->top_p, "draw from the fewest tokens that have this probability together")
      ->type_name("P")
      ->transform(number_between(0, 1, true))
      ->capture_default_str();
  command->add_option("--seed", options->seed, "another seed, another text")
      ->type_name("N")
      ->transform(integer_from(0))
      ->capture_default_str();
  add_precision(command, options->precision);
  add_device(command, options->device);
  add_quiet(command, context);
}

}  // namespace t6::cli
