#include "base/config_scalar.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <span>
#include <utility>

namespace t6::config {
namespace {

constexpr int64_t kTenYears = int64_t{3650} * 24 * 3600;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

// A decimal number taken apart: -?digits[.digits][e[+-]digits], single underscores between digits of the whole part.
struct Decimal {
  bool negative = false;
  std::string whole;
  std::string fraction;
  std::string exponent;  // with sign, "" when none
  bool has_point = false;
};

std::optional<std::string> take_apart(std::string_view text, Decimal& out) {
  size_t i = 0;
  const auto digits = [&](std::string& into, bool underscores) {
    const size_t begin = i;
    for (; i < text.size(); ++i) {
      const bool separator = underscores && text[i] == '_' && i > begin && is_digit(text[i - 1]) &&
                             i + 1 < text.size() && is_digit(text[i + 1]);
      if (!separator && !is_digit(text[i])) break;
      if (!separator) into += text[i];
    }
  };
  if (i < text.size() && text[i] == '-') {
    out.negative = true;
    ++i;
  }
  const size_t start = i;
  digits(out.whole, true);
  if (text.size() > start + 1 && text[start] == '0') {
    const char next = text[start + 1];
    if (is_digit(next) || next == '_') return "a leading zero could mean octal; write it without";
    if (std::string_view("xXoObB").find(next) != std::string_view::npos) return "write it in decimal";
  }
  if (i < text.size() && text[i] == '.') {
    out.has_point = true;
    ++i;
    digits(out.fraction, false);
    if (out.fraction.empty()) return "";
  }
  if (out.whole.empty()) return "";
  if (i < text.size() && (text[i] == 'e' || text[i] == 'E')) {
    if (++i < text.size() && (text[i] == '+' || text[i] == '-')) {
      if (text[i] == '-') out.exponent.push_back('-');
      ++i;
    }
    const size_t before = out.exponent.size();
    digits(out.exponent, false);
    if (out.exponent.size() == before) return "";
  }
  if (i != text.size()) return "";
  return {};
}

std::string number_words(std::string_view noun, const Range& range) {
  const std::string words = range.words();
  return words.empty() ? std::string(noun) : fmt::format("{} {}", noun, words);
}

// What other programs call the types of numbers and the devices here. There is no fp16: bf16 is the type of as many
// bits.
constexpr std::array<std::pair<std::string_view, std::string_view>, 10> kElsewhere{{{"fp32", "f32"},
                                                                                    {"float32", "f32"},
                                                                                    {"float", "f32"},
                                                                                    {"single", "f32"},
                                                                                    {"bfloat16", "bf16"},
                                                                                    {"fp16", "bf16"},
                                                                                    {"f16", "bf16"},
                                                                                    {"float16", "bf16"},
                                                                                    {"half", "bf16"},
                                                                                    {"gpu", "cuda"}}};

}  // namespace

std::string Range::words() const {
  const bool has_low = std::isfinite(low), has_high = std::isfinite(high);
  if (has_low && has_high) {
    return fmt::format("in {}{}, {}{}", low_open ? '(' : '[', print_number(low), print_number(high),
                       high_open ? ')' : ']');
  }
  if (has_low) return fmt::format("{} {}", low_open ? ">" : ">=", print_number(low));
  if (has_high) return fmt::format("{} {}", high_open ? "<" : "<=", print_number(high));
  return "";
}

std::string what_came(const Node& node) {
  switch (node.kind) {
    case Node::Kind::null:
      return "nothing";
    case Node::Kind::sequence:
      return "a list";
    case Node::Kind::map:
      return "a section";
    default:
      return node.quoted ? fmt::format("the text {}", quote(node.text)) : quote(node.text);
  }
}

Fault expected(const Node& node, const std::string& what, const std::string& hint) {
  return {node.at, fmt::format("expected {}, got {}{}{}", what, what_came(node), hint.empty() ? "" : "; ", hint)};
}

std::optional<std::string> parse_integer(std::string_view text, int64_t& value) {
  Decimal parts;
  if (auto reason = take_apart(text, parts)) return reason;
  if (parts.has_point && parts.exponent.empty()) return "";
  int64_t exponent = 0;
  if (!parts.exponent.empty()) {
    const char* end = parts.exponent.data() + parts.exponent.size();
    if (std::from_chars(parts.exponent.data(), end, exponent).ec != std::errc() || std::abs(exponent) > 1000) {
      return "it does not fit 64 bits";
    }
  }
  // digits * 10^exponent, exactly
  std::string digits = parts.whole + parts.fraction;
  exponent -= static_cast<int64_t>(parts.fraction.size());
  digits.erase(0, digits.find_first_not_of('0'));
  if (digits.empty()) {
    value = 0;
    return {};
  }
  while (digits.back() == '0') {
    digits.pop_back();
    ++exponent;
  }
  if (exponent < 0) return "it has a fraction";
  if (exponent > 19 || digits.size() > 19) return "it does not fit 64 bits";
  digits.append(static_cast<size_t>(exponent), '0');
  if (parts.negative) digits.insert(digits.begin(), '-');
  int64_t read_value = 0;
  if (std::from_chars(digits.data(), digits.data() + digits.size(), read_value).ec != std::errc()) {
    return "it does not fit 64 bits";
  }
  value = read_value;
  return {};
}

std::optional<std::string> parse_number(std::string_view text, double& value) {
  Decimal parts;
  if (auto reason = take_apart(text, parts)) return reason;
  std::string plain = parts.whole;
  if (parts.negative) plain.insert(plain.begin(), '-');
  if (parts.has_point) plain += '.' + parts.fraction;
  if (!parts.exponent.empty()) plain += 'e' + parts.exponent;
  double read_value = 0;
  const auto [end, error] = std::from_chars(plain.data(), plain.data() + plain.size(), read_value);
  if (error != std::errc() || end != plain.data() + plain.size() || !std::isfinite(read_value)) {
    return "it does not fit a 64-bit floating-point number";
  }
  value = read_value;
  return {};
}

std::optional<std::string> parse_duration(std::string_view text, std::chrono::seconds& value) {
  int64_t total = 0;
  if (!parse_integer(text, total)) {
    if (total > kTenYears) return "it is over ten years";
    if (total < 0) return "it is negative";
    value = std::chrono::seconds(total);
    return {};
  }
  struct Unit {
    char name;
    int64_t seconds;
  };
  constexpr std::array<Unit, 4> kUnits{{{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}}};
  total = 0;
  size_t next_unit = 0;
  for (size_t i = 0; i < text.size();) {
    int64_t count = 0;
    const size_t begin = i;
    for (; i < text.size() && is_digit(text[i]); ++i) {
      count = count * 10 + (text[i] - '0');
      if (count > kTenYears) return "it is over ten years";
    }
    if (i == begin || i == text.size()) return "";
    while (next_unit < kUnits.size() && kUnits[next_unit].name != text[i]) ++next_unit;
    if (next_unit == kUnits.size()) return "";
    total += count * kUnits[next_unit++].seconds;
    if (total > kTenYears) return "it is over ten years";
    ++i;
  }
  if (text.empty()) return "";
  value = std::chrono::seconds(total);
  return {};
}

std::string nearest_name(std::string_view name, const std::string_view* names, size_t count) {
  std::string lower(name);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  std::string_view meant = lower;
  for (const auto& [elsewhere, here] : kElsewhere) meant = meant == elsewhere ? here : meant;
  const auto same = std::find(names, names + count, meant);
  if (same != names + count) return std::string(*same);
  // Words of three letters are near too much ('gpu' is not meant to be 'cpu').
  constexpr size_t kShortest = 4, kLongest = 64;
  if (name.size() < kShortest || name.size() > kLongest) return "";
  // Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours count one each.
  const auto distance = [&](std::string_view other) {
    std::vector<size_t> before, last(other.size() + 1), row(other.size() + 1);
    for (size_t j = 0; j <= other.size(); ++j) last[j] = j;
    for (size_t i = 1; i <= name.size(); ++i) {
      row[0] = i;
      for (size_t j = 1; j <= other.size(); ++j) {
        row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (name[i - 1] != other[j - 1])});
        if (i > 1 && j > 1 && name[i - 1] == other[j - 2] && name[i - 2] == other[j - 1]) {
          row[j] = std::min(row[j], before[j - 2] + 1);
        }
      }
      before = last;
      std::swap(last, row);
    }
    return last[other.size()];
  };
  size_t best = std::max<size_t>(1, name.size() / 3) + 1;
  std::string nearest;
  for (const std::string_view other : std::span(names, count)) {
    if (other.size() > kLongest) continue;
    const size_t d = distance(other);
    if (d < best && d < other.size()) {
      best = d;
      nearest = other;
    }
  }
  return nearest;
}

std::string join_names(const std::string_view* names, size_t count) {
  std::string out;
  for (size_t i = 0; i < count; ++i) out += (i == 0 ? "" : i + 1 == count ? " or " : ", ") + std::string(names[i]);
  return out;
}

Result read_name(const Node& node, const std::string_view* names, size_t count, size_t& index) {
  if (node.kind == Node::Kind::scalar) {
    for (size_t i = 0; i < count; ++i) {
      if (names[i] == node.text) {
        index = i;
        return {};
      }
    }
  }
  const std::string nearest = node.kind == Node::Kind::scalar ? nearest_name(node.text, names, count) : "";
  return expected(node, join_names(names, count), nearest.empty() ? "" : fmt::format("nearest is '{}'", nearest));
}

std::string print_text(std::string_view text) {
  const auto plain = [](char c) {
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == '.' || c == '/';
  };
  const auto plain_inside = [&](char c) { return plain(c) || c == '-' || c == '*' || c == '+' || c == '='; };
  const bool reads_as_null = text == "null" || text == "Null" || text == "NULL";
  if (!text.empty() && plain(text.front()) && text != "..." && !reads_as_null &&
      std::all_of(text.begin(), text.end(), plain_inside)) {
    return std::string(text);
  }
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

std::string print_number(double value) {
  // Shortest text that reads back as the same value.
  if (std::abs(value) < 1e15 && value == std::floor(value)) return fmt::format("{}", static_cast<int64_t>(value));
  return fmt::format("{}", value);
}

std::string print_duration(std::chrono::seconds value) {
  int64_t rest = value.count();
  std::string out;
  for (const auto& [name, seconds] : {std::pair{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}}) {
    if (rest >= seconds) out += fmt::format("{}{}", rest / seconds, name);
    rest %= seconds;
  }
  return out.empty() ? "0s" : out;
}

std::string Type<int64_t>::words(const Range& range) {
  return number_words("integer", range);
}

Result Type<int64_t>::read(const Node& node, int64_t& value, const Range& range) {
  const std::string what = number_words("an integer", range);
  if (node.kind != Node::Kind::scalar) return expected(node, what);
  if (node.quoted) return expected(node, what, "write it without quotes");
  int64_t read_value = 0;
  if (const auto reason = parse_integer(node.text, read_value)) return expected(node, what, *reason);
  if (!range.contains(static_cast<double>(read_value))) return expected(node, what);
  value = read_value;
  return {};
}

std::string Type<double>::words(const Range& range) {
  return number_words("number", range);
}

Result Type<double>::read(const Node& node, double& value, const Range& range) {
  const std::string what = number_words("a number", range);
  if (node.kind != Node::Kind::scalar) return expected(node, what);
  if (node.quoted) return expected(node, what, "write it without quotes");
  double read_value = 0;
  if (const auto reason = parse_number(node.text, read_value)) return expected(node, what, *reason);
  if (!range.contains(read_value)) return expected(node, what);
  value = read_value;
  return {};
}

Result Type<bool>::read(const Node& node, bool& value, const Range&) {
  if (node.kind != Node::Kind::scalar || node.quoted || (node.text != "true" && node.text != "false")) {
    return expected(node, "true or false", node.quoted ? "write it without quotes" : "");
  }
  value = node.text == "true";
  return {};
}

Result Type<std::string>::read(const Node& node, std::string& value, const Range&) {
  if (node.kind != Node::Kind::scalar) return expected(node, "a text");
  if (node.text.empty()) return expected(node, "a text that is not empty");
  for (const char c : node.text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7F) return expected(node, "a text of one line without control characters");
  }
  value = node.text;
  return {};
}

Result Type<std::chrono::seconds>::read(const Node& node, std::chrono::seconds& value, const Range& range) {
  const std::string what = "a duration such as 90s, 2h30m or a number of seconds";
  if (node.kind != Node::Kind::scalar) return expected(node, what);
  std::chrono::seconds read_value{};
  if (const auto reason = parse_duration(node.text, read_value)) return expected(node, what, *reason);
  if (!range.contains(static_cast<double>(read_value.count()))) {
    return expected(node, fmt::format("a duration {} seconds", range.words()));
  }
  value = read_value;
  return {};
}

}  // namespace t6::config
