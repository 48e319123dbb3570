#include "cli/arguments.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <optional>

#include "base/config_scalar.h"
#include "base/config_tree.h"
#include "base/error.h"
#include "cli/help.h"

namespace t6::cli {
namespace {

// A validator that turns the text into what CLI11 converts, so that 1e5 and 600_000 are integers here as in a config.
CLI::Validator integers(int64_t min, int64_t max, const std::string& words) {
  return CLI::Validator(
      [=](std::string& text) -> std::string {
        int64_t value = 0;
        if (config::parse_integer(text, value) || value < min || value > max) {
          return fmt::format("expected an integer {}, got {}", words, config::quote(text));
        }
        text = std::to_string(value);
        return {};
      },
      words);
}

CLI::Validator numbers(double min, double max, bool above_min, const std::string& words) {
  return CLI::Validator(
      [=](std::string& text) -> std::string {
        double value = 0;
        const bool fault = config::parse_number(text, value).has_value();
        if (fault || !(above_min ? value > min : value >= min) || value > max) {
          return fmt::format("expected a number {}, got {}", words, config::quote(text));
        }
        text = fmt::format("{}", value);
        return {};
      },
      words);
}

// What marks an option of add_list, in its help, too.
constexpr std::string_view kListMark = ",...";

bool is_list(const CLI::Option* option) {
  return option != nullptr && option->get_type_name().find(kListMark) != std::string::npos;
}

// The items of a list, or nothing where a comma has none beside it.
std::optional<std::vector<std::string>> split_list(const std::string& text) {
  constexpr const char* kBlanks = " \t\n";
  std::vector<std::string> items;
  bool wanted = true;  // an item: at the beginning and behind a comma
  for (size_t at = text.find_first_not_of(kBlanks); at < text.size(); at = text.find_first_not_of(kBlanks, at)) {
    const bool comma = text[at] == ',';
    if (comma && wanted) return std::nullopt;
    const size_t end = comma ? at + 1 : std::min(text.find_first_of(", \t\n", at), text.size());
    if (!comma) items.push_back(text.substr(at, end - at));
    wanted = comma;
    at = end;
  }
  return wanted ? std::nullopt : std::optional(items);
}

// Turns the text of a list into its converted items with blanks between them.
CLI::Validator list_of(const CLI::Validator& item) {
  return CLI::Validator(
      [item](std::string& text) -> std::string {
        const auto items = split_list(text);
        if (!items) {
          std::string nothing;
          const std::string fault = item(nothing);
          return fault.empty()
                     ? fmt::format("expected items with commas or blanks between them, got {}", config::quote(text))
                     : fault;
        }
        text.clear();
        for (std::string each : *items) {
          if (const std::string fault = item(each); !fault.empty()) return fault;
          text += (text.empty() ? "" : " ") + each;
        }
        return {};
      },
      item.get_description() + "; several with commas or blanks between them");
}

// Whether a word behind a list is of it. An option, KEY=VALUE, or a path that is there is not; a word that is misspelt
// is.
bool goes_on(CLI::Option& list, const std::string& word) {
  std::string items = word.substr(0, word.find_last_not_of(',') + 1);  // in "a, b" the words are "a," and "b"
  items.erase(0, items.find_first_not_of(','));
  if (items.empty() || (*list.get_validator(0))(items).empty()) return true;
  std::error_code ignored;
  return word[0] != '-' && word.find_first_of("=/") == std::string::npos && !std::filesystem::exists(word, ignored);
}

}  // namespace

CLI::Validator integer_between(int64_t min, int64_t max) {
  return integers(min, max, fmt::format("from {} to {}", min, max));
}

CLI::Validator integer_from(int64_t min) {
  return integers(min, std::numeric_limits<int64_t>::max(), fmt::format("of at least {}", min));
}

CLI::Validator number_between(double min, double max, bool above_min) {
  return numbers(min, max, above_min,
                 above_min ? fmt::format("above {} and at most {}", min, max) : fmt::format("from {} to {}", min, max));
}

CLI::Validator number_from(double min) {
  return numbers(min, std::numeric_limits<double>::max(), false, fmt::format("of at least {}", min));
}

CLI::Validator one_of(std::vector<std::string> names) {
  const std::string words = fmt::format("{}", fmt::join(names, ", "));
  return CLI::Validator(
      [=](std::string& text) -> std::string {
        const auto at = std::find(names.begin(), names.end(), text);
        if (at != names.end()) {
          text = std::to_string(at - names.begin());
          return {};
        }
        const std::vector<std::string_view> views(names.begin(), names.end());
        const std::string near = config::nearest_name(text, views.data(), views.size());
        return fmt::format("expected {}, got {}{}", words, config::quote(text),
                           near.empty() ? "" : "; did you mean " + near + "?");
      },
      words);
}

std::vector<std::string> join_lists(CLI::App& root, const std::vector<std::string>& words) {
  CLI::App* command = &root;
  CLI::Option* list = nullptr;  // whose items came last
  std::vector<std::string> joined;
  bool naming = true;
  for (size_t at = 0; at < words.size(); ++at) {
    const std::string& word = words[at];
    if (word == "--") {
      joined.insert(joined.end(), words.begin() + static_cast<std::ptrdiff_t>(at), words.end());
      break;
    }
    if (list != nullptr && goes_on(*list, word)) {
      joined.back() += " " + word;
      continue;
    }
    joined.push_back(word);
    const auto named = command->get_subcommands([&](const CLI::App* each) { return each->get_name() == word; });
    naming = naming && (at == 0 || !named.empty());
    if (naming && at > 0) command = named.front();
    const size_t equals = word.find('=');
    list = word.starts_with("--") ? command->get_option_no_throw(word.substr(0, equals)) : nullptr;
    if (!is_list(list)) list = nullptr;
    if (list == nullptr || equals != std::string::npos) continue;
    if (at + 1 < words.size() && !words[at + 1].starts_with("--")) {
      joined.push_back(words[++at]);
    } else {
      list = nullptr;
    }
  }
  return joined;
}

void parse(CLI::App& root, const std::vector<std::string>& words) {
  const std::vector<std::string> joined = join_lists(root, words);
  std::vector<const char*> argv;
  for (const std::string& word : joined) argv.push_back(word.c_str());
  try {
    root.parse(static_cast<int>(argv.size()), argv.data());
  } catch (const CLI::CallForVersion&) {
    throw;
  } catch (const CLI::CallForHelp&) {
    throw;
  } catch (const CLI::ParseError& error) {
    fail(ExitCode::usage, "{}", explain(root, error));
  }
}

CLI::Option* detail::add_list(CLI::App* command, const std::string& name, const std::string& purpose,
                              const std::string& type, const CLI::Validator& item,
                              const std::function<void(const std::vector<std::string>&)>& take) {
  const std::function<void(const std::vector<std::string>&)> split = [take](const std::vector<std::string>& lists) {
    take(*split_list(fmt::format("{}", fmt::join(lists, " "))));
  };
  return command->add_option_function(name, split, purpose)
      ->type_name(type + std::string(kListMark))
      ->transform(list_of(item))
      ->allow_extra_args(false);
}

void add_run(CLI::App* command, std::string& run) {
  command
      ->add_option("RUN", run,
                   "run folder or folder of checkpoints, whose newest intact one is taken, or one checkpoint")
      ->required();
}

void add_precision(CLI::App* command, Precision& precision) {
  command->add_option("--precision", precision, "of products and attention")
      ->type_name("TYPE")
      ->transform(one_of({"f32", "bf16"}))
      ->default_str("f32");
}

void add_precision(CLI::App* command, std::optional<Precision>& precision) {
  command->add_option("--precision", precision, "of products and attention; without it the config's")
      ->type_name("TYPE")
      ->transform(one_of({"f32", "bf16"}));
}

void add_device(CLI::App* command, DeviceChoice& device) {
  command->add_option("--device", device, "where to compute; auto: a GPU when there is one")
      ->type_name("DEVICE")
      ->transform(one_of({"auto", "cpu", "cuda"}))
      ->default_str("auto");
}

void add_device(CLI::App* command, std::optional<DeviceChoice>& device) {
  command->add_option("--device", device, "where to compute; without it the config's run.device")
      ->type_name("DEVICE")
      ->transform(one_of({"auto", "cpu", "cuda"}));
}

std::string unescape(const std::string& text, const std::string& option) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    const char next = i + 1 < text.size() ? text[++i] : '?';
    switch (next) {
      case 'n':
        out += '\n';
        break;
      case 't':
        out += '\t';
        break;
      case 'f':
        out += '\f';
        break;
      case 'r':
        out += '\r';
        break;
      case '0':
        out += '\0';
        break;
      case '\\':
        out += '\\';
        break;
      default:
        fail(ExitCode::usage, "{}: expected one of \\n \\t \\f \\r \\0 \\\\ after a backslash, got {}", option,
             config::quote(text));
    }
  }
  return out;
}

}  // namespace t6::cli
