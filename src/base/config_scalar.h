// Typed values of a config: strict reading of one YAML value, canonical printing, and the words for both in messages
// and help.
#pragma once

#include <array>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/config_tree.h"

namespace t6::config {

// Which numbers are allowed; for a list, which each element may be. An open end leaves out the bound itself.
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false;
  bool high_open = false;

  bool contains(double x) const { return (low_open ? x > low : x >= low) && (high_open ? x < high : x <= high); }
  std::string words() const;  // "in [0, 1)", ">= 1", "" when anything goes
};
constexpr Range range(double low, double high) {
  return {low, high, false, false};
}
constexpr Range range_below(double low, double high) {
  return {low, high, false, true};
}  // [low, high)
constexpr Range positive(double high = std::numeric_limits<double>::infinity()) {
  return {0, high, true, false};
}
constexpr Range at_least(double low) {
  return {low, std::numeric_limits<double>::infinity(), false, false};
}

// Why a value was refused and where.
struct Fault {
  Location at;
  std::string reason;
};
using Result = std::optional<Fault>;  // empty: read

// "'abc'", "nothing", "a list", "a section", "the text \"5\" in quotes".
std::string what_came(const Node& node);
Fault expected(const Node& node, const std::string& what, const std::string& hint = "");

// Integers: 1000, -3, 600_000, 1e5; not 010, 0x10, 1.0. Numbers: also 0.1, 2.5e-3; never nan or inf.
// On failure the reason beyond "expected an integer", possibly empty.
std::optional<std::string> parse_integer(std::string_view text, int64_t& value);
std::optional<std::string> parse_number(std::string_view text, double& value);
// 90 or 90s, 15m, 2h30m, 1d; whole seconds below ten years.
std::optional<std::string> parse_duration(std::string_view text, std::chrono::seconds& value);

Result read_name(const Node& node, const std::string_view* names, size_t count, size_t& index);
std::string nearest_name(std::string_view name, const std::string_view* names, size_t count);  // "" when none is near
std::string print_text(std::string_view text);
std::string print_number(double value);
std::string print_duration(std::chrono::seconds value);
std::string join_names(const std::string_view* names, size_t count);

// An enum is readable when `config_names(E)`, found beside it, returns a std::array of std::string_view in enumerator
// order from 0.
template <class E>
concept Named = std::is_enum_v<E> && requires(E e) {
  config_names(e).size();
};

template <Named E>
std::string_view name_of(E value) {
  static constexpr auto names = config_names(E{});
  return names.at(static_cast<size_t>(value));
}

// Type<T>: read(node, value, range) changes `value` only when it succeeds; print gives text that reads back as the same
// value; words is the type's name in help.
template <class T>
struct Type;

template <>
struct Type<int64_t> {
  static std::string words(const Range& range);
  static Result read(const Node& node, int64_t& value, const Range& range);
  static std::string print(int64_t value) { return std::to_string(value); }
};

template <>
struct Type<double> {
  static std::string words(const Range& range);
  static Result read(const Node& node, double& value, const Range& range);
  static std::string print(double value) { return print_number(value); }
};

template <>
struct Type<bool> {
  static std::string words(const Range&) { return "true or false"; }
  static Result read(const Node& node, bool& value, const Range&);
  static std::string print(bool value) { return value ? "true" : "false"; }
};

template <>
struct Type<std::string> {
  static std::string words(const Range&) { return "text"; }
  static Result read(const Node& node, std::string& value, const Range&);
  static std::string print(const std::string& value) { return print_text(value); }
};

template <>
struct Type<std::chrono::seconds> {
  static std::string words(const Range&) { return "duration"; }
  static Result read(const Node& node, std::chrono::seconds& value, const Range& range);
  static std::string print(std::chrono::seconds value) { return print_duration(value); }
};

template <Named E>
struct Type<E> {
  static constexpr auto kNames = config_names(E{});
  static std::string words(const Range&) { return join_names(kNames.data(), kNames.size()); }
  static Result read(const Node& node, E& value, const Range&) {
    size_t index = 0;
    if (Result fault = read_name(node, kNames.data(), kNames.size(), index)) return fault;
    value = static_cast<E>(index);
    return {};
  }
  static std::string print(E value) { return std::string(name_of(value)); }
};

template <class T>
struct Type<std::optional<T>> {
  static std::string words(const Range& range) { return Type<T>::words(range) + ", or null"; }
  static Result read(const Node& node, std::optional<T>& value, const Range& range) {
    if (node.kind == Node::Kind::null) {
      value.reset();
      return {};
    }
    T read_value{};
    if (Result fault = Type<T>::read(node, read_value, range)) return fault;
    value = std::move(read_value);
    return {};
  }
  static std::string print(const std::optional<T>& value) { return value ? Type<T>::print(*value) : "null"; }
};

// The elements of a list; a lone text stands for a list of one.
template <class T>
Result read_items(const Node& node, std::vector<T>& values, const Range& range) {
  std::vector<T> read_values;
  if (std::is_same_v<T, std::string> && node.kind == Node::Kind::scalar) {
    if (Result fault = Type<T>::read(node, read_values.emplace_back(), range)) return fault;
  } else if (node.kind != Node::Kind::sequence) {
    return expected(node, "a list [a, b, ...] of: " + Type<T>::words(range));
  }
  for (const Node& item : node.items) {
    if (item.kind == Node::Kind::broken) continue;
    T value{};
    if (Result fault = Type<T>::read(item, value, range)) return fault;
    read_values.push_back(std::move(value));
  }
  values = std::move(read_values);
  return {};
}

template <class List>
std::string print_items(const List& values) {
  using T = typename List::value_type;
  std::string out = "[";
  for (const T& value : values) {
    if (out.size() > 1) out += ", ";
    out += Type<T>::print(value);
  }
  return out + "]";
}

template <class T>
struct Type<std::vector<T>> {
  static std::string words(const Range& range) { return "list of: " + Type<T>::words(range); }
  static Result read(const Node& node, std::vector<T>& values, const Range& range) {
    return read_items(node, values, range);
  }
  static std::string print(const std::vector<T>& values) { return print_items(values); }
};

template <class T, size_t N>
struct Type<std::array<T, N>> {
  static std::string words(const Range& range) { return "list of " + std::to_string(N) + ": " + Type<T>::words(range); }
  static Result read(const Node& node, std::array<T, N>& values, const Range& range) {
    std::vector<T> read_values;
    if (Result fault = read_items(node, read_values, range)) return fault;
    if (read_values.size() != N) {
      return Fault{node.at, "expected a list of exactly " + std::to_string(N) + " values, got " +
                                std::to_string(read_values.size())};
    }
    std::move(read_values.begin(), read_values.end(), values.begin());
    return {};
  }
  static std::string print(const std::array<T, N>& values) { return print_items(values); }
};

}  // namespace t6::config
