#include "checkpoint/json_fields.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "base/strict_json.h"

namespace t6::checkpoint {

using nlohmann::json;

const json* JsonReader::find(const char* key, Presence presence) {
  known_.insert(key);
  const auto it = root_.find(key);
  if (it != root_.end() && (presence == kRequired || !it->is_null())) return &*it;
  problem_unless(presence == kDefault, key, "is missing");
  return nullptr;
}

void JsonReader::problem_unless(bool holds, const char* key, const std::string& reason) {
  if (!holds && bad_.insert(key).second) problems_.push_back(fmt::format("{}: {}", key, reason));
}

void JsonReader::integer(const char* key, int64_t& value, int64_t least, int64_t most, Presence presence) {
  const json* found = find(key, presence);
  if (found == nullptr) {
    // What stands in for it, may come of other keys that were wrong.
    value = std::clamp(value, least, most);
    return;
  }
  const bool fits = found->is_number_integer() &&
                    (!found->is_number_unsigned() || found->get<uint64_t>() <= INT64_MAX) &&
                    found->get<int64_t>() >= least && found->get<int64_t>() <= most;
  problem_unless(fits, key, fmt::format("expected an integer from {} to {}, got {}", least, most, shown(*found)));
  value = fits ? found->get<int64_t>() : least;
}

void JsonReader::number(const char* key, double& value, double least, double most, Presence presence) {
  const json* found = find(key, presence);
  if (found == nullptr) return;
  const bool fits = found->is_number() && found->get<double>() > least && found->get<double>() <= most;
  problem_unless(fits, key,
                 fmt::format("expected a number above {} and at most {}, got {}", least, most, shown(*found)));
  if (fits) value = found->get<double>();
}

void JsonReader::word(const char* key, std::string& value, std::initializer_list<const char*> words,
                      Presence presence) {
  const json* found = find(key, presence);
  if (found == nullptr) return;
  const bool fits =
      found->is_string() && std::any_of(words.begin(), words.end(), [&](const char* word) { return *found == word; });
  problem_unless(fits, key, fmt::format("expected {}, got {}", fmt::join(words, " or "), shown(*found)));
  if (fits) value = found->get<std::string>();
}

void JsonReader::is(const char* key, const json& value, const char* why, Presence presence) {
  const json* found = find(key, presence);
  if (found == nullptr) return;
  // Of numbers 0 and 0.0 are the same, of others the kind counts too.
  const bool same = found->is_boolean() == value.is_boolean() && *found == value;
  problem_unless(same, key, fmt::format("expected {}, got {}{}{}", shown(value), shown(*found), *why ? ": " : "", why));
}

bool JsonReader::read_theta(const std::string& key, const json& value, double least, double most, double& theta) {
  const bool fits = value.is_number() && value.get<double>() >= least && value.get<double>() <= most;
  problem_unless(fits, key.c_str(), fmt::format("expected a number from {} to {}, got {}", least, most, shown(value)));
  if (fits) theta = value.get<double>();
  return fits;
}

void JsonReader::rope(double& theta, double least, double most) {
  constexpr const char* kWhy = "t6 turns by the plain angles alone";
  std::optional<double> said;
  const auto take = [&](const std::string& key, const json& value) {
    double one = theta;
    if (!read_theta(key, value, least, most, one)) return;
    problem_unless(!said || *said == one, key.c_str(), "differs from the theta that another key says");
    said = one;
  };
  if (const json* found = find("rope_theta", kDefault)) take("rope_theta", *found);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const json* found = find(key, kDefault);
    if (found == nullptr) continue;
    problem_unless(found->is_object(), key, fmt::format("expected an object, got {}", shown(*found)));
    if (!found->is_object()) continue;
    for (const auto& [name, value] : found->items()) {
      if (name == "rope_theta") {
        take(fmt::format("{}.rope_theta", key), value);
      } else if (name == "rope_type" || name == "type") {
        problem_unless(value == "default", key,
                       fmt::format("expected {} default, got {}: {}", name, shown(value), kWhy));
      } else {
        problem_unless(false, key, fmt::format("{} is not known: {}", shown(name), kWhy));
      }
    }
  }
  problem_unless(said.has_value() || bad_.count("rope_theta") > 0, "rope_theta", "is missing");
  if (said) theta = *said;
}

void JsonReader::finish(const std::string& where) {
  for (const auto& item : root_.items()) {
    if (known_.count(item.key()) > 0) continue;
    problems_.push_back(
        fmt::format("{}: is not known to t6, which cannot tell whether it changes the model; if it does "
                    "not, take it out",
                    shown(item.key())));
  }
  if (problems_.empty()) return;
  constexpr size_t kShown = 12;
  std::string text;
  for (size_t i = 0; i < std::min(problems_.size(), kShown); ++i) text += "\n  " + problems_[i];
  if (problems_.size() > kShown) text += fmt::format("\n  and {} more", problems_.size() - kShown);
  fail(ExitCode::checkpoint, "{} does not describe a model of t6:{}", where, text);
}

}  // namespace t6::checkpoint
