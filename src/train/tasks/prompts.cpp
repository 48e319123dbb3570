#include "train/tasks/prompts.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/utf8.h"

namespace t6::train {
namespace {

constexpr std::string_view kExampleEnd = "\n\n";

// What Python's str.isspace() is true of.
bool is_space(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string replace_all(std::string_view text, std::string_view what, std::string_view by) {
  std::string out;
  for (size_t at = 0;;) {
    const size_t found = text.find(what, at);
    out += text.substr(at, found - at);
    if (found == std::string_view::npos) return out;
    out += by;
    at = found + what.size();
  }
}

// re.sub("\\[.*?\\]", "", text): "." matches no line end.
std::string without_brackets(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t open = std::min(text.find('[', at), text.size());
    out += text.substr(at, open - at);
    // Where the line ends first, none of its brackets is closed.
    const size_t end = std::min(text.find_first_of("]\n", open), text.size());
    const bool closed = end < text.size() && text[end] == ']';
    if (!closed) out += text.substr(open, end - open + 1);
    at = end + 1;
  }
  return out;
}

std::string clean_wikihow(std::string_view text) {
  return replace_all(without_brackets(replace_all(strip(text), " [title]", ". ")), "  ", " ");
}

// Python's str.capitalize() for letters of ASCII and Latin-1: the first one large, all others small.
std::string capitalize(std::string_view text) {
  std::string out(text);
  for (size_t i = 0; i < out.size(); ++i) {
    const auto byte = static_cast<uint8_t>(out[i]);
    const auto next = i + 1 < out.size() ? static_cast<uint8_t>(out[i + 1]) : uint8_t{0};
    const bool first = i == 0;
    if (first && byte >= 'a' && byte <= 'z') out[i] = static_cast<char>(byte - 0x20);
    if (!first && byte >= 'A' && byte <= 'Z') out[i] = static_cast<char>(byte + 0x20);
    if (byte != 0xC3) continue;
    // U+00C0 to U+00DE and U+00E0 to U+00FE, but for the signs of multiplication and division among them.
    if (first && next >= 0xA0 && next <= 0xBE && next != 0xB7) out[i + 1] = static_cast<char>(next - 0x20);
    if (!first && next >= 0x80 && next <= 0x9E && next != 0x97) out[i + 1] = static_cast<char>(next + 0x20);
    ++i;
  }
  return out;
}

// A context with one answer a choice.
Question ask(const std::string& context, const std::vector<std::string>& choices, size_t gold) {
  Question question;
  question.gold = gold;
  question.example = fmt::format("{} {}{}", context, choices[gold], kExampleEnd);
  for (const std::string& choice : choices) question.prompts.push_back({context, fmt::format(" {}", choice)});
  return question;
}

std::string_view without_prefix(std::string_view text, std::string_view prefix) {
  return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}

}  // namespace

size_t characters(std::string_view text) {
  size_t count = 0;
  for (; !text.empty(); ++count) text.remove_prefix(static_cast<size_t>(std::max(1, utf8::first(text).bytes)));
  return count;
}

std::string_view strip_left(std::string_view text) {
  while (!text.empty()) {
    const utf8::Char c = utf8::first(text);
    if (c.bytes < 1 || !is_space(c.code_point)) break;
    text.remove_prefix(static_cast<size_t>(c.bytes));
  }
  return text;
}

std::string_view strip_right(std::string_view text) {
  while (!text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && text.size() - begin < 3 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
    const utf8::Char c = utf8::first(text.substr(begin));
    if (c.bytes != static_cast<int>(text.size() - begin) || !is_space(c.code_point)) break;
    text = text.substr(0, begin);
  }
  return text;
}

std::string_view strip(std::string_view text) {
  return strip_left(strip_right(text));
}

Question choose(std::string context, const std::vector<std::string>& choices, size_t gold) {
  Question question = ask(context, choices, gold);
  for (const std::string& choice : choices) question.lengths.push_back(characters(choice));
  return question;
}

std::string question_and_answer(std::string_view question) {
  return fmt::format("Question: {}\nAnswer:", question);
}

Question boolq(std::string_view passage, std::string_view question, bool yes) {
  return ask(fmt::format("{}\nQuestion: {}?\nAnswer:", passage, question), {"no", "yes"}, yes ? 1 : 0);
}

Question sciq(std::string_view support, std::string_view question, const std::vector<std::string>& distractors,
              const std::string& correct) {
  std::vector<std::string> choices = distractors;
  choices.push_back(correct);
  return choose(fmt::format("{}\n{}", strip_left(support), question_and_answer(question)), choices, choices.size() - 1);
}

Question hellaswag(std::string_view activity, std::string_view ctx_a, std::string_view ctx_b,
                   const std::vector<std::string>& endings, size_t gold) {
  std::string context(ctx_a);
  if (!activity.empty()) context = fmt::format("{}: {} {}", activity, ctx_a, capitalize(ctx_b));
  std::vector<std::string> choices;
  for (const std::string& ending : endings) choices.push_back(clean_wikihow(ending));
  return choose(clean_wikihow(context), choices, gold);
}

Question choose_context(const std::vector<std::string>& contexts, std::string_view continuation, size_t gold) {
  Question question;
  question.gold = gold;
  const std::string answer = fmt::format(" {}", continuation);
  question.example = fmt::format("{}{}{}", contexts[gold], answer, kExampleEnd);
  for (const std::string& context : contexts) question.prompts.push_back({context, answer});
  return question;
}

Question winogrande(std::string_view sentence, const std::vector<std::string>& options, size_t gold) {
  const size_t blank = std::min(sentence.find('_'), sentence.size());
  std::vector<std::string> contexts;
  for (const std::string& option : options) contexts.push_back(fmt::format("{}{}", sentence.substr(0, blank), option));
  return choose_context(contexts, strip(sentence.substr(std::min(blank + 1, sentence.size()))), gold);
}

std::string mmlu_preamble(std::string_view subject) {
  const std::string about = subject.empty() ? std::string() : fmt::format(" about {}", replace_all(subject, "_", " "));
  return fmt::format("The following are multiple choice questions (with answers){}.\n\n", about);
}

Question mmlu(std::string_view subject, std::string_view question, const std::vector<std::string>& choices,
              size_t gold) {
  std::string context(strip(question));
  std::vector<std::string> letters;
  for (size_t i = 0; i < choices.size(); ++i) {
    letters.emplace_back(1, static_cast<char>('A' + i));
    context += fmt::format("\n{}. {}", letters.back(), choices[i]);
  }
  Question asked = ask(context + "\nAnswer:", letters, gold);
  asked.preamble = mmlu_preamble(subject);
  asked.subject = subject;
  return asked;
}

Question last_word(std::string_view context, std::string_view word) {
  Question question;
  question.prompts = {{std::string(context), fmt::format(" {}", word)}};
  // The harness puts its delimiter before a target that begins with a space itself.
  question.example = fmt::format("{}  {}{}", context, word, kExampleEnd);
  return question;
}

Question lambada(std::string_view text) {
  const size_t space = text.rfind(' ');
  if (space == std::string_view::npos) return last_word("", text);
  return last_word(text.substr(0, space), text.substr(space + 1));
}

Question ready_made(TaskName task, std::string_view query, const std::vector<std::string>& choices, size_t gold) {
  if (task == TaskName::openbookqa || task == TaskName::hellaswag) return choose(std::string(query), choices, gold);
  std::string context(task == TaskName::boolq ? without_prefix(query, "Passage: ") : query);
  if (!context.ends_with("Answer:")) {
    if (context.ends_with('\n')) context.pop_back();
    context += "\nAnswer:";
  }
  return has_norm(task) ? choose(context, choices, gold) : ask(context, choices, gold);
}

}  // namespace t6::train
