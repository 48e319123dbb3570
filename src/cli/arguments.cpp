#include "cli/arguments.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "base/config_scalar.h"
#include "base/config_tree.h"
#include "base/error.h"

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
