// JSON of files that come from elsewhere, read with bounds: what is refused is refused before it costs memory.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace t6 {

struct JsonLimits {
  int depth = 16;
  size_t values = 400'000;         // of all objects and lists together
  size_t token_bytes = 4096;       // of one string or number, as it is written
  size_t bytes = size_t{1} << 20;  // of the whole text
};

// The value of `text`: well-formed, within the limits, no key twice in one object. Error(code) "<where>: <reason>".
nlohmann::json parse_strict_json(std::string_view text, const std::string& where, ExitCode code,
                                 const JsonLimits& limits = {});

// What a child process tells (base/child.h), which may have been taken over. Nothing when it is no JSON, is deeper or
// larger than such a child may tell, or holds a number that is no integer: to convert those is not always defined.
std::optional<nlohmann::json> parse_told_json(std::string_view text);

// A value for a message: its JSON in printable ASCII, at most `most` characters of it.
std::string shown(const nlohmann::json& value, size_t most = 60);

}  // namespace t6
