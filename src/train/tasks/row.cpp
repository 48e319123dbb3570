#include "train/tasks/row.h"

#include <simdjson.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/error.h"
#include "base/printable.h"
#include "train/tasks/task_file.h"

namespace t6::train {
namespace {

using simdjson::dom::array;
using simdjson::dom::element;
using simdjson::dom::object;

// What a row may look like, for messages.
std::string_view forms_of(TaskName task) {
  switch (task) {
    case TaskName::arc_easy:
    case TaskName::arc_challenge:
      return "question, choices {text, label}, answerKey";
    case TaskName::boolq:
      return "passage, question, label (or answer)";
    case TaskName::hellaswag:
      return "activity_label, ctx_a, ctx_b, endings, label";
    case TaskName::openbookqa:
      return "question_stem, choices {text, label}, answerKey";
    case TaskName::piqa:
      return "goal, sol1, sol2, label";
    case TaskName::winogrande:
      return "sentence, option1, option2, answer";
    case TaskName::sciq:
      return "support, question, distractor1, distractor2, distractor3, correct_answer";
    case TaskName::mmlu:
      return "subject, question, choices, answer";
    case TaskName::lambada:
      return "text";
  }
  return "";
}

std::string_view ready_form_of(TaskName task) {
  if (task == TaskName::winogrande) return "context_options, continuation, gold";
  if (task == TaskName::lambada) return "context, continuation";
  return "query, choices, gold";
}

std::string describe(element value) {
  std::string text = simdjson::minify(value);
  return printable(text);
}

// A row's values by key; everything that is not as expected is said with file, line and key.
class Row {
 public:
  Row(TaskName task, const std::string& name, uint64_t number, object values)
      : task_(task), name_(name), number_(number), values_(values) {}

  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ExitCode::data, "{}:{}: {}", name_, number_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::optional<element> find(std::string_view key) const {
    element value;
    if (values_.at_key(key).get(value) != simdjson::SUCCESS) return std::nullopt;
    return value;
  }
  bool has(std::string_view key) const { return find(key).has_value(); }
  element at(std::string_view key) const {
    const std::optional<element> value = find(key);
    if (!value) {
      bad("no key \"{}\"; a row of {} has {} (or {})", key, name_of(task_), forms_of(task_), ready_form_of(task_));
    }
    return *value;
  }

  std::string text(std::string_view key) const { return text_of(at(key), key); }
  // One that something stands in.
  std::string words(std::string_view key) const { return words_of(at(key), key); }
  std::vector<std::string> texts(std::string_view key) const { return texts_of(at(key), key); }

  // A whole number from 0 to below `count`, also written as a text.
  size_t index(std::string_view key, size_t count) const {
    const element value = at(key);
    int64_t number = -1;
    std::string_view written;
    if (value.get(number) != simdjson::SUCCESS && value.get(written) == simdjson::SUCCESS) {
      const auto [end, fault] = std::from_chars(written.data(), written.data() + written.size(), number);
      if (fault != std::errc() || end != written.data() + written.size()) number = -1;
    }
    if (number < 0 || static_cast<uint64_t>(number) >= count) {
      bad("\"{}\": expected a whole number from 0 to {}, got {}{}", key, count - 1, describe(value), no_answer(value));
    }
    return static_cast<size_t>(number);
  }

  // A yes or no, as a truth value or as 0 and 1.
  bool truth(std::string_view key) const {
    bool value = false;
    return at(key).get(value) == simdjson::SUCCESS ? value : index(key, 2) == 1;
  }

  struct Labelled {
    std::vector<std::string> texts, labels;
  };
  // {"text": [..], "label": [..]} or [{"text": .., "label": ..}, ..].
  Labelled labelled(std::string_view key) const {
    const element value = at(key);
    Labelled choices;
    object columns;
    array rows;
    if (value.get(columns) == simdjson::SUCCESS) {
      const Row inner(task_, name_, number_, columns);
      choices = {inner.texts("text"), inner.texts("label")};
    } else if (value.get(rows) == simdjson::SUCCESS) {
      for (const element each : rows) {
        object choice;
        if (each.get(choice) != simdjson::SUCCESS) bad("\"{}\": expected objects of text and label", key);
        const Row inner(task_, name_, number_, choice);
        choices.texts.push_back(inner.words("text"));
        choices.labels.push_back(inner.words("label"));
      }
      require_count(choices.texts.size(), key);
    } else {
      bad("\"{}\": expected texts and labels, got {}", key, describe(value));
    }
    if (choices.texts.size() != choices.labels.size()) {
      bad("\"{}\": expected as many labels as texts, got {} and {}", key, choices.labels.size(), choices.texts.size());
    }
    return choices;
  }

  // Where the label that "answerKey" names stands.
  size_t answer_among(const std::vector<std::string>& labels) const {
    const std::string answer(strip_left(text("answerKey")));
    const auto at = std::find(labels.begin(), labels.end(), answer);
    if (at == labels.end()) {
      bad("\"answerKey\": expected one of the labels {}, got \"{}\"{}", list(labels), printable(answer),
          answer.empty() ? "; is it a test set without answers?" : "");
    }
    return static_cast<size_t>(at - labels.begin());
  }

  // The object below a key where one is there, or this one.
  Row below(std::string_view key) const {
    object inner;
    const std::optional<element> value = find(key);
    return value && value->get(inner) == simdjson::SUCCESS ? Row(task_, name_, number_, inner) : *this;
  }

 private:
  static std::string list(const std::vector<std::string>& texts) {
    std::string all;
    for (const std::string& text : texts) all += (all.empty() ? "" : ", ") + printable(text);
    return all;
  }
  std::string no_answer(element value) const {
    int64_t number = 0;
    std::string_view written;
    const bool none = value.get(number) == simdjson::SUCCESS
                          ? number == -1
                          : value.get(written) == simdjson::SUCCESS && written.empty();
    return none ? "; is it a test set without answers?" : "";
  }
  std::string text_of(element value, std::string_view key) const {
    std::string_view text;
    if (value.get(text) != simdjson::SUCCESS) bad("\"{}\": expected a text, got {}", key, describe(value));
    return std::string(text);
  }
  std::string words_of(element value, std::string_view key) const {
    std::string text = text_of(value, key);
    if (strip(text).empty()) bad("\"{}\": expected a text that is not empty", key);
    return text;
  }
  void require_count(size_t count, std::string_view key) const {
    if (count < 2 || count > kMaxChoices) bad("\"{}\": expected 2 to {} of them, got {}", key, kMaxChoices, count);
  }
  std::vector<std::string> texts_of(element value, std::string_view key) const {
    array items;
    if (value.get(items) != simdjson::SUCCESS) bad("\"{}\": expected a list of texts, got {}", key, describe(value));
    std::vector<std::string> texts;
    for (const element item : items) {
      texts.push_back(words_of(item, key));
      if (texts.size() > kMaxChoices) break;
    }
    require_count(texts.size(), key);
    return texts;
  }

  TaskName task_;
  const std::string& name_;
  uint64_t number_;
  object values_;
};

Question arc_like(const Row& row, std::string_view key) {
  // The original downloads have stem and choices below "question".
  const Row inner = row.below("question");
  const Row::Labelled choices = inner.labelled("choices");
  const std::string question = inner.words(inner.has("stem") ? "stem" : key);
  const size_t gold = row.answer_among(choices.labels);
  return choose(key == "question" ? question_and_answer(question) : question, choices.texts, gold);
}

Question boolq_row(const Row& row) {
  return boolq(row.words("passage"), row.words("question"), row.truth(row.has("answer") ? "answer" : "label"));
}

Question hellaswag_row(const Row& row) {
  const std::vector<std::string> endings = row.texts("endings");
  const size_t gold = row.index("label", endings.size());
  Question question = row.has("ctx_a")
                          ? hellaswag(row.words("activity_label"), row.text("ctx_a"), row.text("ctx_b"), endings, gold)
                          : hellaswag("", row.words("ctx"), "", endings, gold);
  for (const size_t length : question.lengths) {
    if (length == 0) row.bad("\"endings\": nothing is left of one but what stands in brackets");
  }
  return question;
}

Question piqa_row(const Row& row) {
  return choose(question_and_answer(row.words("goal")), {row.words("sol1"), row.words("sol2")}, row.index("label", 2));
}

Question winogrande_row(const Row& row) {
  if (row.has("context_options")) {
    const std::vector<std::string> contexts = row.texts("context_options");
    return choose_context(contexts, row.words("continuation"), row.index("gold", contexts.size()));
  }
  const std::string sentence = row.words("sentence");
  const size_t blank = sentence.find('_');
  if (blank == std::string::npos) row.bad("\"sentence\": expected a \"_\" where the option belongs, got none");
  if (strip(std::string_view(sentence).substr(blank + 1)).empty()) {
    row.bad("\"sentence\": expected words after the \"_\", which are what is measured");
  }
  const std::string answer = row.has("answer") ? describe(row.at("answer")) : "";
  if (answer != "\"1\"" && answer != "\"2\"" && answer != "1" && answer != "2") {
    row.bad("\"answer\": expected 1 or 2, got {}{}", answer.empty() ? "no such key" : answer,
            answer == "\"\"" ? "; is it a test set without answers?" : "");
  }
  return winogrande(sentence, {row.words("option1"), row.words("option2")}, answer.find('2') != std::string::npos);
}

Question sciq_row(const Row& row) {
  std::vector<std::string> distractors;
  for (const char* key : {"distractor1", "distractor2", "distractor3"}) distractors.push_back(row.words(key));
  return sciq(row.has("support") ? row.text("support") : "", row.words("question"), distractors,
              row.words("correct_answer"));
}

Question mmlu_row(const Row& row) {
  const std::vector<std::string> choices = row.texts("choices");
  if (choices.size() != 4) row.bad("\"choices\": expected 4 of them, got {}", choices.size());
  std::string_view letter;
  size_t gold = 0;
  if (row.at("answer").get(letter) == simdjson::SUCCESS && letter.size() == 1 && letter[0] >= 'A' && letter[0] <= 'D') {
    gold = static_cast<size_t>(letter[0] - 'A');
  } else {
    gold = row.index("answer", choices.size());
  }
  return mmlu(row.has("subject") ? row.text("subject") : "", row.words("question"), choices, gold);
}

Question lambada_row(const Row& row) {
  if (row.has("continuation")) return last_word(row.words("context"), row.words("continuation"));
  const std::string text = row.words("text");
  const Question question = lambada(text);
  if (strip(question.prompts[0].continuation).empty()) {
    row.bad("\"text\": expected a word at the end, got \"{}\"", printable(text));
  }
  return question;
}

// The key that a row of the ready form has and one of the data set has not, and the other way round.
std::string_view ready_key(TaskName task) {
  if (task == TaskName::winogrande) return "context_options";
  return task == TaskName::lambada ? "continuation" : "query";
}
std::vector<std::string_view> own_keys(TaskName task) {
  switch (task) {
    case TaskName::arc_easy:
    case TaskName::arc_challenge:
      return {"question", "answerKey"};
    case TaskName::boolq:
      return {"passage", "question"};
    case TaskName::hellaswag:
      return {"ctx", "ctx_a", "endings"};
    case TaskName::openbookqa:
      return {"question_stem", "question", "answerKey"};
    case TaskName::piqa:
      return {"goal", "sol1"};
    case TaskName::winogrande:
      return {"sentence", "option1"};
    case TaskName::sciq:
      return {"question", "correct_answer"};
    case TaskName::mmlu:
      return {"question", "answer"};
    case TaskName::lambada:
      return {"text"};
  }
  return {};
}

// Whether the row is of the ready form. One of both forms may say two things.
bool is_ready(TaskName task, const Row& row, bool logged) {
  const std::string_view ready = ready_key(task);
  if (!row.has(ready)) return false;
  // The harness adds the ready form to its rows of hellaswag, and asks that.
  if (logged && task == TaskName::hellaswag) return true;
  for (const std::string_view own : own_keys(task)) {
    if (!row.has(own)) continue;
    row.bad("has both \"{}\" and \"{}\"; a row of {} has either {}, or {}", ready, own, name_of(task), forms_of(task),
            ready_form_of(task));
  }
  return true;
}

Question question_of(TaskName task, const Row& row, bool logged) {
  const bool ready = is_ready(task, row, logged);
  // The other two have forms of their own.
  if (ready && task != TaskName::winogrande && task != TaskName::lambada) {
    const std::vector<std::string> choices = row.texts("choices");
    Question question = ready_made(task, row.words("query"), choices, row.index("gold", choices.size()));
    if (task == TaskName::mmlu) {
      question.subject = row.has("subject") ? row.text("subject") : "";
      question.preamble = mmlu_preamble(question.subject);
    }
    return question;
  }
  switch (task) {
    case TaskName::arc_easy:
    case TaskName::arc_challenge:
      return arc_like(row, "question");
    case TaskName::openbookqa:
      return arc_like(row, "question_stem");
    case TaskName::boolq:
      return boolq_row(row);
    case TaskName::hellaswag:
      return hellaswag_row(row);
    case TaskName::piqa:
      return piqa_row(row);
    case TaskName::winogrande:
      return winogrande_row(row);
    case TaskName::sciq:
      return sciq_row(row);
    case TaskName::mmlu:
      return mmlu_row(row);
    case TaskName::lambada:
      break;
  }
  return lambada_row(row);
}

}  // namespace

struct RowReader::Parser {
  simdjson::dom::parser json;
};

RowReader::RowReader(TaskName task, std::string name)
    : task_(task), name_(std::move(name)), parser_(std::make_unique<Parser>()) {}
RowReader::~RowReader() = default;

Question RowReader::read(std::string_view line, uint64_t number) {
  element document;
  if (const auto fault = parser_->json.parse(simdjson::padded_string(line)).get(document)) {
    fail(ExitCode::data, "{}:{}: this line is not valid JSON ({}); expected one object a line, with {} (or {})", name_,
         number, simdjson::error_message(fault), forms_of(task_), ready_form_of(task_));
  }
  object values;
  if (document.get(values) != simdjson::SUCCESS) {
    fail(ExitCode::data, "{}:{}: expected a JSON object, got {}", name_, number, describe(document));
  }
  // Logged samples of the harness hold the row of the data set.
  const Row row(task_, name_, number, values);
  return question_of(task_, row.below("doc"), row.has("doc"));
}

}  // namespace t6::train
