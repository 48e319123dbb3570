// The downstream tasks by name, and an item of one as the model is asked it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace t6 {

// In this order, as of the names; values are part of how examples are drawn.
enum class TaskName : uint8_t {
  arc_easy,
  arc_challenge,
  boolq,
  hellaswag,
  openbookqa,
  piqa,
  winogrande,
  sciq,
  mmlu,
  lambada
};
inline constexpr std::array<std::string_view, 10> kTaskNames{
    "arc_easy", "arc_challenge", "boolq", "hellaswag", "openbookqa", "piqa", "winogrande", "sciq", "mmlu", "lambada"};
constexpr std::array<std::string_view, 10> config_names(TaskName) {
  return kTaskNames;
}
constexpr std::string_view name_of(TaskName task) {
  return kTaskNames[static_cast<size_t>(task)];
}

}  // namespace t6

namespace t6::train {

// Whether acc_norm is told beside acc: for the tasks for which lm-evaluation-harness does.
constexpr bool has_norm(TaskName task) {
  return task != TaskName::boolq && task != TaskName::winogrande && task != TaskName::mmlu && task != TaskName::lambada;
}

// The continuation's probability after the context is what is measured.
struct Prompt {
  std::string context;
  std::string continuation;
  bool operator==(const Prompt&) const = default;
};

// An item: one prompt a choice; of lambada the only one, and right is what the model would write by itself.
struct Question {
  std::vector<Prompt> prompts;
  size_t gold = 0;
  std::vector<size_t> lengths;  // of the choices in characters, what acc_norm divides by; empty of tasks without
  std::string preamble;         // comes before everything, examples too
  std::string example;          // the question with its answer, as an example before another one
  std::string subject;          // mmlu: examples are of the same one
};

}  // namespace t6::train
