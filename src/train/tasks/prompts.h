// How each task is asked: contexts and continuations letter for letter as lm-evaluation-harness 0.4 forms them from its
// task definitions (lm_eval/tasks), with its delimiters: one space before an answer, an empty line after an example.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "train/tasks/task.h"

namespace t6::train {

// A context with one answer a choice, and their lengths.
Question choose(std::string context, const std::vector<std::string>& choices, size_t gold);

// "Question: <question>\nAnswer:": arc_easy, arc_challenge, piqa.
std::string question_and_answer(std::string_view question);
// "<passage>\nQuestion: <question>?\nAnswer:", and no, yes.
Question boolq(std::string_view passage, std::string_view question, bool yes);
// "<support>\nQuestion: <question>\nAnswer:", white space before the support left out; the right answer comes last.
Question sciq(std::string_view support, std::string_view question, const std::vector<std::string>& distractors,
              const std::string& correct);
// Texts cleaned of what WikiHow left in them: "<activity>: <ctx_a> <Ctx_b>". Without `activity` the context is ctx_a.
Question hellaswag(std::string_view activity, std::string_view ctx_a, std::string_view ctx_b,
                   const std::vector<std::string>& endings, size_t gold);
// The sentence up to "_" with each option in its place; what follows "_" is what is measured.
Question winogrande(std::string_view sentence, const std::vector<std::string>& options, size_t gold);
// Contexts that differ before one continuation.
Question choose_context(const std::vector<std::string>& contexts, std::string_view continuation, size_t gold);
// "The following are multiple choice questions (with answers) about <subject>.\n\n" and the question with its choices A
// to D; the letters are what is measured.
Question mmlu(std::string_view subject, std::string_view question, const std::vector<std::string>& choices,
              size_t gold);
std::string mmlu_preamble(std::string_view subject);
// The last word after all before it.
Question lambada(std::string_view text);
Question last_word(std::string_view context, std::string_view word);

// A question that is a text already (llm-foundry's rows: query, choices, gold), brought to the same form: "Passage: "
// of boolq is dropped, and where the answer follows "Answer:" that is put behind it unless it is there.
Question ready_made(TaskName task, std::string_view query, const std::vector<std::string>& choices, size_t gold);

// Python's len() of a text: code points; a byte that belongs to none counts one.
size_t characters(std::string_view text);
// Python's str.strip(), lstrip() and rstrip(): Unicode white space.
std::string_view strip(std::string_view text);
std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);

}  // namespace t6::train
