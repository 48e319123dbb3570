// Files of downstream tasks, and results of them: refused with exit code 3, or read into what can be asked and
// compared.
#include "fuzz/fuzz_target.h"
#include "train/tasks/prompts.h"
#include "train/tasks/results.h"
#include "train/tasks/task_file.h"

namespace t6::fuzz {
namespace {

using train::Question;

void require_askable(TaskName task, const Question& question) {
  const size_t choices = question.prompts.size();
  require(choices >= (task == TaskName::lambada ? 1 : 2) && choices <= train::kMaxChoices, "{} choices", choices);
  require(question.gold < choices && question.lengths.size() == (train::has_norm(task) ? choices : 0),
          "gold {} of {} choices, {} lengths", question.gold, choices, question.lengths.size());
  for (const train::Prompt& prompt : question.prompts) {
    require(prompt.continuation.starts_with(' ') && !train::strip(prompt.continuation).empty(), "nothing to measure");
  }
  for (const size_t length : question.lengths) require(length > 0, "a choice of no characters");
  require(question.example.ends_with("\n\n"), "an example without its end");
}

// The first byte says the task; '#' is HellaSwag as text.
void run_files(std::string_view input) {
  if (input.empty()) return;
  const bool text = input[0] == '#';
  const auto task =
      text ? TaskName::hellaswag : static_cast<TaskName>(static_cast<unsigned char>(input[0]) % kTaskNames.size());
  std::vector<Question> questions;
  if (!accepts({ExitCode::data}, [&] {
        questions = text ? train::parse_hellaswag_text(input.substr(1), "f.txt")
                         : train::parse_task(task, input.substr(1), "f.jsonl");
      })) {
    return;
  }
  require(!questions.empty(), "no item and no refusal");
  for (const Question& question : questions) require_askable(task, question);
}

void run_results(std::string_view input) {
  train::SavedResults saved;
  if (!accepts({ExitCode::data}, [&] { saved = train::parse_results(input, "piqa.jsonl"); })) return;
  std::string again(input.substr(0, input.find('\n') + 1));
  for (size_t i = 0; i < saved.items.size(); ++i) again += train::to_line(i, saved.items[i]);
  const train::SavedResults read = train::parse_results(again, "again");
  require(read.task == saved.task && read.items == saved.items, "reads back as something else");
  if (!saved.items.empty()) train::score_of(saved.task, saved.items);
}

std::vector<std::string> file_seeds() {
  const std::string labelled = R"("choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"B"})";
  std::vector<std::string> rows{
      R"({"question":"q",)" + labelled,
      R"({"question":{"stem":"q","choices":[{"text":"a","label":"1"},{"text":"b","label":"2"}]},"answerKey":"1"})",
      R"({"passage":"p","question":"q","answer":true})",
      R"({"activity_label":"l","ctx_a":"a [x]","ctx_b":"b","endings":["c [title] d","e"],"label":"1"})",
      R"({"question_stem":"q",)" + labelled,
      R"({"goal":"g","sol1":"a","sol2":"b","label":1})",
      R"({"sentence":"a _ b","option1":"c","option2":"d","answer":"2"})",
      R"({"support":" s","question":"q","distractor1":"a","distractor2":"b","distractor3":"c","correct_answer":"d"})",
      R"({"question":"q","subject":"a_b","choices":["a","b","c","d"],"answer":"C"})",
      R"({"text":"a b c"})"};
  std::vector<std::string> seeds;
  for (size_t i = 0; i < rows.size(); ++i) seeds.push_back(std::string(1, static_cast<char>('\x0a' * 5 + i)) + rows[i]);
  seeds.push_back(
      "\x32"
      R"({"query":"Question: q\n","choices":["a","b"],"gold":0})"
      "\n{}\n");
  seeds.push_back(
      "\x38"
      R"({"context_options":["a","b"],"continuation":"c","gold":1})");
  seeds.push_back(
      "\x3b"
      R"({"doc":{"context":"a","continuation":"b"}})");
  seeds.push_back("#context\n3\na\nb\nc\nd\n");
  return seeds;
}

std::vector<std::string> result_seeds() {
  const std::string header = R"({"kind":"t6-scores","version":1,"task":"piqa","file":"x"})"
                             "\n";
  const train::ItemResult item{
      .gold = 1, .scores = {-1.5, -1e300}, .correct = true, .correct_norm = false, .prompt = "0123456789abcdef"};
  return {header, header + train::to_line(0, item) + train::to_line(1, item), header + "{\"torn"};
}

Registered files_target({"task_files", "files of downstream tasks", &run_files, &file_seeds, 2048});
Registered results_target({"task_results", "results of downstream tasks", &run_results, &result_seeds, 2048});

}  // namespace
}  // namespace t6::fuzz
