#include "base/strict_json.h"

#include <algorithm>
#include <set>
#include <vector>

#include "base/printable.h"

namespace t6 {
namespace {

using nlohmann::json;

// One pass over the characters, that knows strings from the rest and nothing more: the parser behind it then meets no
// deeper nesting, no longer token and no more values than these.
void check_limits(std::string_view text, const std::string& where, ExitCode code, const JsonLimits& limits) {
  if (text.size() > limits.bytes) fail(code, "{}: larger than {} bytes", where, limits.bytes);
  int depth = 0;
  size_t values = 1, token = 0;
  bool in_string = false, escaped = false;
  for (const char c : text) {
    if (in_string) {
      if (++token > limits.token_bytes) {
        fail(code, "{}: holds a string of more than {} bytes", where, limits.token_bytes);
      }
      in_string = escaped || c != '"';
      escaped = !escaped && c == '\\';
      continue;
    }
    switch (c) {
      case '"':
        in_string = true;
        token = 0;
        break;
      case '{':
      case '[':
        token = 0;
        ++values;
        if (++depth > limits.depth) fail(code, "{}: nested deeper than {}", where, limits.depth);
        break;
      case '}':
      case ']':
        token = 0;
        --depth;
        break;
      case ',':
        token = 0;
        if (++values > limits.values) fail(code, "{}: more than {} values", where, limits.values);
        break;
      case ':':
      case ' ':
      case '\n':
      case '\r':
      case '\t':
        token = 0;
        break;
      case '\0':  // where the parser would take the text to end
        fail(code, "{}: not valid JSON: holds a zero byte", where);
      default:
        if (++token > limits.token_bytes) {
          fail(code, "{}: holds a number of more than {} digits", where, limits.token_bytes);
        }
    }
  }
}

bool has_fraction(const json& value) {
  return value.is_number_float() ||
         (value.is_structured() &&
          std::any_of(value.begin(), value.end(), [](const json& v) { return has_fraction(v); }));
}

}  // namespace

json parse_strict_json(std::string_view text, const std::string& where, ExitCode code, const JsonLimits& limits) {
  check_limits(text, where, code, limits);
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto watch = [&](int, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      fail(code, "{}: key {} comes twice", where, shown(value));
    }
    return true;
  };
  try {
    return json::parse(text.begin(), text.end(), watch);
  } catch (const json::exception& error) {
    fail(code, "{}: not valid JSON: {}", where, printable(error.what(), 300));
  }
}

std::optional<json> parse_told_json(std::string_view text) {
  constexpr JsonLimits kLimits{
      .depth = 8, .values = size_t{64} << 20, .token_bytes = size_t{1} << 20, .bytes = size_t{64} << 20};
  try {
    json told = parse_strict_json(text, "told", ExitCode::internal, kLimits);
    return has_fraction(told) ? std::nullopt : std::optional(std::move(told));
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::string shown(const json& value, size_t most) {
  const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() <= most ? text : text.substr(0, most) + "...";
}

}  // namespace t6
