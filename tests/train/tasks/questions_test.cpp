// Rows of every form become the prompts of lm-evaluation-harness, letter for letter; bad files are refused by line and
// key.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>

#include "base/error.h"
#include "base/rng.h"
#include "train/tasks/prompts.h"
#include "train/tasks/shots.h"
#include "train/tasks/task_file.h"

namespace t6::train {
namespace {

Question one(TaskName task, const std::string& line) {
  const std::vector<Question> questions = parse_task(task, line + "\n", "file.jsonl");
  EXPECT_EQ(questions.size(), 1u);
  return questions.front();
}

using Prompts = std::vector<Prompt>;

TEST(TaskQuestions, ArcAsTheHarnessAsksIt) {
  const Prompts expected{{"Question: Why is the sky blue?\nAnswer:", " It scatters light."},
                         {"Question: Why is the sky blue?\nAnswer:", " It is painted."}};
  const Question dataset =
      one(TaskName::arc_easy, R"({"id":"x","question":"Why is the sky blue?","choices":{"text":["It scatters light.",)"
                              R"("It is painted."],"label":["1","2"]},"answerKey":"2"})");
  EXPECT_EQ(dataset.prompts, expected);
  EXPECT_EQ(dataset.gold, 1u);
  EXPECT_EQ(dataset.lengths, (std::vector<size_t>{18, 14}));
  EXPECT_EQ(dataset.example, "Question: Why is the sky blue?\nAnswer: It is painted.\n\n");
  EXPECT_EQ(dataset.preamble, "");

  // The original download, a logged sample of the harness, and llm-foundry's row.
  for (const std::string line :
       {R"({"id":"x","question":{"stem":"Why is the sky blue?","choices":[{"text":"It scatters light.","label":"A"},)"
        R"({"text":"It is painted.","label":"B"}]},"answerKey":"B"})",
        R"({"doc_id":0,"doc":{"question":"Why is the sky blue?","choices":{"text":["It scatters light.",)"
        R"("It is painted."],"label":["A","B"]},"answerKey":"B"},"target":"1"})",
        R"({"query":"Question: Why is the sky blue?","choices":["It scatters light.","It is painted."],"gold":1})"}) {
    const Question question = one(TaskName::arc_challenge, line);
    EXPECT_EQ(question.prompts, expected) << line;
    EXPECT_EQ(question.gold, 1u) << line;
  }
}

TEST(TaskQuestions, BoolqAsTheHarnessAsksIt) {
  const Prompts expected{{"Ethanol is a fuel.\nQuestion: is ethanol a fuel?\nAnswer:", " no"},
                         {"Ethanol is a fuel.\nQuestion: is ethanol a fuel?\nAnswer:", " yes"}};
  for (const std::string line :
       {R"({"question":"is ethanol a fuel","passage":"Ethanol is a fuel.","idx":0,"label":1})",
        R"({"question":"is ethanol a fuel","title":"Ethanol","answer":true,"passage":"Ethanol is a fuel."})",
        R"({"query":"Passage: Ethanol is a fuel.\nQuestion: is ethanol a fuel?","choices":["no","yes"],"gold":1})"}) {
    const Question question = one(TaskName::boolq, line);
    EXPECT_EQ(question.prompts, expected) << line;
    EXPECT_EQ(question.gold, 1u) << line;
  }
}

TEST(TaskQuestions, HellaswagIsCleanedAsTheHarnessCleansIt) {
  const Question question = one(
      TaskName::hellaswag,
      R"({"activity_label":"Roof  removal","ctx_a":"A man [title] sits [step] on a roof.","ctx_b":"hE Éd","endings":)"
      R"([" is using wrap. [substeps] x","b","c","d"],"label":"3"})");
  // Two spaces become one, once from left to right; brackets go with what is in them; ctx_b is capitalized.
  EXPECT_EQ(question.prompts[0].context, "Roof removal: A man. sits on a roof. He éd");
  EXPECT_EQ(question.prompts[0].continuation, " is using wrap. x");
  EXPECT_EQ(question.prompts[3].continuation, " d");
  EXPECT_EQ(question.gold, 3u);
  EXPECT_EQ(question.lengths[0], 16u);
  // Only what is there: the context as one text, and llm-foundry's rows, which are ready.
  EXPECT_EQ(one(TaskName::hellaswag, R"({"ctx":"A man sits. he","endings":["a","b"],"label":0})").prompts[1],
            (Prompt{"A man sits. he", " b"}));
  EXPECT_EQ(one(TaskName::hellaswag, R"({"query":"A  man","choices":["a","b"],"gold":0})").prompts[1],
            (Prompt{"A  man", " b"}));
  // A logged sample, to which the harness added what it asked.
  EXPECT_EQ(one(TaskName::hellaswag,
                R"({"doc":{"activity_label":"x","ctx_a":"A man","ctx_b":"ă","endings":["a [b]","c"],"label":"0",)"
                R"("query":"x: A man Ă","choices":["a ","c"],"gold":0}})")
                .prompts[1],
            (Prompt{"x: A man Ă", " c"}));
}

TEST(TaskQuestions, HellaswagOfSixLines) {
  const std::vector<Question> questions =
      parse_hellaswag_text("Roof: A man. he\n2\na\nb\nc\nd\nJump: She\n0\ne\nf\ng\nh\n\n", "file.txt");
  ASSERT_EQ(questions.size(), 2u);
  EXPECT_EQ(questions[0].prompts[2], (Prompt{"Roof: A man. he", " c"}));
  EXPECT_EQ(questions[0].gold, 2u);
  EXPECT_EQ(questions[1].prompts[3], (Prompt{"Jump: She", " h"}));
}

TEST(TaskQuestions, OpenbookqaPiqaAndSciq) {
  const Question book =
      one(TaskName::openbookqa, R"({"id":"7","question_stem":"Fog is around","choices":{"text":["a marsh","a desert"],)"
                                R"("label":["A","B"]},"answerKey":" A"})");
  EXPECT_EQ(book.prompts, (Prompts{{"Fog is around", " a marsh"}, {"Fog is around", " a desert"}}));
  EXPECT_EQ(book.gold, 0u);
  EXPECT_EQ(one(TaskName::openbookqa, R"({"query":"Fog is around","choices":["a marsh","a desert"],"gold":0})").prompts,
            book.prompts);

  const Question piqa = one(TaskName::piqa, R"({"goal":"dresser","sol1":"use a pin","sol2":"finish it","label":1})");
  EXPECT_EQ(piqa.prompts,
            (Prompts{{"Question: dresser\nAnswer:", " use a pin"}, {"Question: dresser\nAnswer:", " finish it"}}));
  EXPECT_EQ(piqa.gold, 1u);
  EXPECT_EQ(
      one(TaskName::piqa, R"({"choices":["use a pin","finish it"],"gold":1,"query":"Question: dresser\n"})").prompts,
      piqa.prompts);

  const std::string answers = R"("distractor1":"a","distractor2":"b","distractor3":"c","correct_answer":"d")";
  const Question sciq = one(TaskName::sciq, R"({"question":"Which?","support":" \n Cells live.",)" + answers + "}");
  EXPECT_EQ(sciq.prompts[3], (Prompt{"Cells live.\nQuestion: Which?\nAnswer:", " d"}));
  EXPECT_EQ(sciq.prompts[0].continuation, " a");
  EXPECT_EQ(sciq.gold, 3u);
  EXPECT_EQ(one(TaskName::sciq, R"({"question":"Which?","support":"",)" + answers + "}").prompts[0].context,
            "\nQuestion: Which?\nAnswer:");
}

TEST(TaskQuestions, WinograndeMeasuresWhatFollowsTheOption) {
  const Prompts expected{{"Sarah was better than Maria so Sarah", " got the easier cases."},
                         {"Sarah was better than Maria so Maria", " got the easier cases."}};
  for (const std::string line :
       {R"({"sentence":"Sarah was better than Maria so _ got the easier cases.","option1":"Sarah","option2":"Maria",)"
        R"("answer":"2"})",
        R"({"context_options":["Sarah was better than Maria so Sarah","Sarah was better than Maria so Maria"],)"
        R"("continuation":"got the easier cases.","gold":1})"}) {
    const Question question = one(TaskName::winogrande, line);
    EXPECT_EQ(question.prompts, expected) << line;
    EXPECT_EQ(question.gold, 1u);
    EXPECT_EQ(question.example, "Sarah was better than Maria so Maria got the easier cases.\n\n");
  }
}

TEST(TaskQuestions, MmluAsksForLetters) {
  const std::string start =
      R"({"question":" Which bone? ","subject":"high_school_biology","choices":["a","b","c","d"],)";
  for (const std::string answer : {R"("answer":2})", R"("answer":"C"})", R"("answer":"2"})"}) {
    const Question question = one(TaskName::mmlu, start + answer);
    EXPECT_EQ(question.preamble,
              "The following are multiple choice questions (with answers) about high school biology.\n\n");
    EXPECT_EQ(question.prompts[1], (Prompt{"Which bone?\nA. a\nB. b\nC. c\nD. d\nAnswer:", " B"}));
    EXPECT_EQ(question.gold, 2u);
    EXPECT_EQ(question.subject, "high_school_biology");
    EXPECT_EQ(question.example, "Which bone?\nA. a\nB. b\nC. c\nD. d\nAnswer: C\n\n");
  }
  EXPECT_EQ(one(TaskName::mmlu, R"({"question":"q","choices":["a","b","c","d"],"answer":0})").preamble,
            "The following are multiple choice questions (with answers).\n\n");
}

TEST(TaskQuestions, LambadaMeasuresTheLastWord) {
  const Prompts expected{{"I don't care about", " signs"}};
  EXPECT_EQ(one(TaskName::lambada, R"({"text":"I don't care about signs"})").prompts, expected);
  EXPECT_EQ(one(TaskName::lambada, R"({"context":"I don't care about","continuation":"signs"})").prompts, expected);
  // The harness's own two spaces.
  EXPECT_EQ(one(TaskName::lambada, R"({"text":"a b"})").example, "a  b\n\n");
}

TEST(TaskQuestions, LengthsAreCharactersAndSpaceIsUnicodes) {
  EXPECT_EQ(characters("aé€😀"), 4u);
  EXPECT_EQ(characters("\xff\x80z"), 3u);
  EXPECT_EQ(strip("\xc2\xa0\t a\xe3\x80\x80 \x1f"), "a");
  EXPECT_EQ(strip_left(" \n x "), "x ");
  EXPECT_EQ(strip_right(" \n x\xe2\x80\xa8"), " \n x");
  EXPECT_EQ(strip("\x80 "), "\x80");
}

TEST(TaskQuestions, ExamplesComeOfAPoolOrOfOtherItems) {
  const auto row = [](const std::string& subject, int i) {
    return R"({"question":"q)" + std::to_string(i) + R"(","subject":")" + subject +
           R"(","choices":["a","b","c","d"],"answer":0})" + "\n";
  };
  const std::vector<Question> dev =
      parse_task(TaskName::mmlu, row("law", 1) + row("art", 2) + row("law", 3) + row("law", 4), "dev.jsonl");
  const std::vector<Question> asked = parse_task(TaskName::mmlu, row("law", 9), "file.jsonl");
  // The first of the subject, in order.
  EXPECT_EQ(Shots(TaskName::mmlu, asked, dev, 2, 7, "f").before(0),
            asked[0].preamble + dev[0].example + dev[2].example);
  EXPECT_THROW(Shots(TaskName::mmlu, asked, dev, 4, 7, "f").before(0), Error);

  std::string text;
  for (int i = 0; i < 6; ++i) {
    text += R"({"goal":"g)" + std::to_string(i / 2) + R"(","sol1":"x","sol2":"y","label":0})" + "\n";
  }
  const std::vector<Question> items = parse_task(TaskName::piqa, text, "file.jsonl");
  std::vector<std::string> seen;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const Shots shots(TaskName::piqa, items, {}, 2, seed, "f");
    for (size_t item = 0; item < items.size(); ++item) {
      const std::string before = shots.before(item);
      EXPECT_EQ(before, shots.before(item));
      // Neither itself nor its twin.
      EXPECT_EQ(before.find(items[item].example), std::string::npos) << before;
      EXPECT_EQ(before.size(), 2 * items[0].example.size());
      seen.push_back(before);
    }
  }
  std::sort(seen.begin(), seen.end());
  EXPECT_GT(std::unique(seen.begin(), seen.end()) - seen.begin(), 3);  // seeds and items differ
  EXPECT_THROW(Shots(TaskName::piqa, items, {}, 5, 7, "f").before(0), Error);
}

// Lengths of the choices: of the tasks that have acc_norm alone.
TEST(TaskQuestions, LengthsAreThereWhereTheyCount) {
  using Lengths = std::vector<size_t>;
  const std::string ready = R"({"query":"q","choices":["a","é?","ccc","d"],"gold":0})";
  for (const TaskName task : {TaskName::arc_easy, TaskName::arc_challenge, TaskName::hellaswag, TaskName::openbookqa,
                              TaskName::piqa, TaskName::sciq}) {
    EXPECT_EQ(one(task, ready).lengths, (Lengths{1, 2, 3, 1})) << name_of(task);
  }
  for (const TaskName task : {TaskName::boolq, TaskName::mmlu}) {
    EXPECT_EQ(one(task, ready).lengths, Lengths()) << name_of(task);
  }
  const char* const rows[] = {R"({"passage":"p","question":"q","label":1})",
                              R"({"sentence":"a _ b","option1":"c","option2":"d","answer":"2"})",
                              R"({"context_options":["a","b"],"continuation":"c","gold":1})",
                              R"({"question":"q","choices":["a","b","c","d"],"answer":"C"})", R"({"text":"a b"})"};
  const TaskName of[] = {TaskName::boolq, TaskName::winogrande, TaskName::winogrande, TaskName::mmlu,
                         TaskName::lambada};
  for (size_t i = 0; i < std::size(rows); ++i) EXPECT_EQ(one(of[i], rows[i]).lengths, Lengths()) << rows[i];
}

// The examples are those of a shuffle by exchanges of all candidates.
TEST(TaskQuestions, ExamplesAreDrawnAsByAShuffle) {
  std::vector<Question> items;
  for (size_t i = 0; i < 40; ++i) {
    Question question = choose(fmt::format("q{}", i % 3 == 0 ? 0 : i), {"a", "b"}, 0);
    question.subject = i % 4 == 1 ? "art" : "law";
    question.example = fmt::format("<{}>", i);
    items.push_back(question);
  }
  for (const uint64_t seed : {0, 5}) {
    const Shots shots(TaskName::mmlu, items, {}, 6, seed, "f");
    for (size_t item = 0; item < items.size(); ++item) {
      std::vector<size_t> order;
      for (size_t i = 0; i < items.size(); ++i) {
        if (items[i].subject == items[item].subject && items[i].prompts != items[item].prompts) order.push_back(i);
      }
      const Philox rng(seed, RngPurpose::sample, static_cast<uint64_t>(TaskName::mmlu));
      std::string expected;
      for (size_t i = 0; i < 6; ++i) {
        std::swap(order[i], order[i + static_cast<size_t>(rng.below((item << 24) + i, order.size() - i))]);
        expected += items[order[i]].example;
      }
      EXPECT_EQ(shots.before(item), expected) << item;
    }
  }
}

// Each took time by the square of the size: minutes at these.
TEST(TaskQuestions, LongFilesTakeTimeByTheirSize) {
  const auto begin = std::chrono::steady_clock::now();
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += "c\n0\na\nb\nc\nd\n";
  EXPECT_EQ(parse_hellaswag_text(text + std::string(1 << 23, ' '), "f.txt").size(), 20'000u);
  const std::string open(400'000, '[');
  EXPECT_EQ(hellaswag("", open + "]" + open, "", {fmt::format("a{}\n{}]b", open, open), "c"}, 0).prompts[0],
            (Prompt{open, fmt::format(" a{}\nb", open)}));
  std::vector<Question> items;
  for (int i = 0; i < 60'000; ++i) items.push_back(choose(fmt::format("q{}", i), {"a", "b"}, 0));
  const Shots shots(TaskName::piqa, items, {}, 2, 0, "f");
  for (size_t i = 0; i < items.size(); ++i) ASSERT_FALSE(shots.before(i).empty());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(15));
}

TEST(TaskQuestions, BracketsGoWithWhatIsInThem) {
  const auto cleaned = [](const std::string& text) {
    return hellaswag("", text, "", {"a", "b"}, 0).prompts[0].context;
  };
  EXPECT_EQ(cleaned("a[b]c[d[e]f]g"), "acf]g");
  EXPECT_EQ(cleaned("a]b[c"), "a]b[c");
  EXPECT_EQ(cleaned("a[b\nc]d[e]"), "a[b\nc]d");
  EXPECT_EQ(cleaned("[x]"), "");
}

TEST(TaskQuestions, AFileHasNoMoreItemsThanItMay) {
  const std::string row = "{\"text\":\"a b\"}\n", lines = "c\n0\na\nb\nc\nd\n";
  EXPECT_EQ(parse_task(TaskName::lambada, row + row + "\n", "f", 2).size(), 2u);
  EXPECT_EQ(parse_hellaswag_text(lines + lines + "\n", "f", 2).size(), 2u);
  for (const auto& parse : {std::function([&] { parse_task(TaskName::lambada, row + row + row, "f", 2); }),
                            std::function([&] { parse_hellaswag_text(lines + lines + lines, "f", 2); })}) {
    try {
      parse();
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      EXPECT_STREQ(error.what(), "f: more than 2 items, the most that a file of a task may have");
    }
  }
}

// {task, row, what the message must say}
struct Bad {
  TaskName task;
  const char* text;
  const char* says;
};
constexpr Bad kBad[] = {
    {TaskName::arc_easy, "", "holds no item"},
    {TaskName::arc_easy, "\n\n", "holds no item"},
    {TaskName::arc_easy, "{", "file.jsonl:1: this line is not valid JSON"},
    {TaskName::arc_easy, "[1]", "file.jsonl:1: expected a JSON object, got [1]"},
    {TaskName::arc_easy, "\xff", "not valid JSON"},
    {TaskName::arc_easy, R"({"a":1})", "file.jsonl:1: no key \"choices\""},
    {TaskName::arc_easy, R"({"question":"q","choices":5,"answerKey":"A"})", "\"choices\": expected texts and labels"},
    {TaskName::arc_easy, R"({"question":"q","choices":{"text":["a"],"label":["A"]},"answerKey":"A"})",
     "\"text\": expected 2 to 32"},
    {TaskName::arc_easy, R"({"question":"q","choices":{"text":["a","b"],"label":["A","B","C"]},"answerKey":"A"})",
     "as many labels as texts"},
    {TaskName::arc_easy, R"({"question":"q","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"C"})",
     "\"answerKey\": expected one of the labels A, B"},
    {TaskName::arc_easy, R"({"question":"q","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":""})",
     "is it a test set without answers?"},
    {TaskName::arc_easy, R"({"question":"q","choices":["a","b"],"answerKey":"A"})", "objects of text and label"},
    {TaskName::arc_easy, R"({"question":" ","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"A"})",
     "\"question\": expected a text that is not empty"},
    {TaskName::arc_easy, R"({"query":"q","choices":["a",""],"gold":0})", "\"choices\": expected a text that is not"},
    {TaskName::arc_easy, R"({"query":"q","choices":["a","b"],"gold":2})",
     "\"gold\": expected a whole number from 0 to 1"},
    {TaskName::arc_easy, R"({"query":"q","choices":["a","b"],"gold":-1})", "is it a test set without answers?"},
    {TaskName::arc_easy, R"({"query":"q","choices":["a","b"],"gold":1.5})", "\"gold\""},
    {TaskName::arc_easy, R"({"query":"q","choices":["a","b"],"gold":"1x"})", "\"gold\""},
    {TaskName::arc_easy, R"({"query":"q","choices":["a",3],"gold":0})", "\"choices\": expected a text, got 3"},
    {TaskName::arc_easy, R"({"query":["q"],"choices":["a","b"],"gold":0})", "\"query\": expected a text"},
    {TaskName::arc_easy, R"({"query":"q","choices":"ab","gold":0})", "\"choices\": expected a list of texts"},
    {TaskName::boolq, R"({"passage":"p","question":"q"})", "no key \"label\""},
    {TaskName::boolq, R"({"passage":"p","question":"q","label":2})", "\"label\": expected a whole number from 0 to 1"},
    {TaskName::boolq, R"({"passage":"p","question":"q","answer":"maybe"})", "\"answer\""},
    {TaskName::hellaswag, R"({"ctx":"c","endings":["a","b"],"label":""})", "is it a test set without answers?"},
    {TaskName::hellaswag, R"({"ctx":"c","endings":["a","[b]"],"label":0})", "nothing is left of one"},
    {TaskName::hellaswag, R"({"endings":["a","b"],"label":0})", "no key \"ctx\""},
    {TaskName::piqa, R"({"goal":"g","sol1":"a","sol2":"b","label":-1})", "is it a test set without answers?"},
    {TaskName::piqa, R"({"goal":"g","sol1":"a","label":0})", "no key \"sol2\""},
    {TaskName::winogrande, R"({"query":"q","choices":["a","b"],"gold":0})", "no key \"sentence\""},
    {TaskName::lambada, R"({"query":"q","choices":["a","b"],"gold":0})", "no key \"text\""},
    {TaskName::arc_easy,
     R"({"question":"q","choices":{"text":["a","b"],"label":["A\u001b[2J","B\u009b"]},"answerKey":"C"})",
     "expected one of the labels A\\x1b[2J, B\\u009b, got \"C\""},
    {TaskName::lambada, R"({"text":["\u202e"]})", "expected a text, got [\"\\u202e\"]"},
    {TaskName::winogrande, R"({"sentence":"no blank","option1":"a","option2":"b","answer":"1"})", "expected a \"_\""},
    {TaskName::winogrande, R"({"sentence":"ends in _ ","option1":"a","option2":"b","answer":"1"})", "words after"},
    {TaskName::winogrande, R"({"sentence":"a _ b","option1":"a","option2":"b","answer":"3"})", "expected 1 or 2"},
    {TaskName::winogrande, R"({"sentence":"a _ b","option1":"a","option2":"b","answer":""})", "without answers"},
    {TaskName::winogrande, R"({"sentence":"a _ b","option1":"a","option2":"b"})", "expected 1 or 2, got no such key"},
    {TaskName::sciq, R"({"question":"q","support":"","distractor1":"a"})", "no key \"distractor2\""},
    {TaskName::mmlu, R"({"question":"q","choices":["a","b","c"],"answer":0})",
     "\"choices\": expected 4 of them, got 3"},
    {TaskName::mmlu, R"({"question":"q","choices":["a","b","c","d"],"answer":"E"})", "\"answer\""},
    {TaskName::lambada, R"({"text":"ends in a space "})", "expected a word at the end"},
    {TaskName::lambada, R"({"context":"c","continuation":""})", "\"continuation\""},
    {TaskName::lambada, R"({"words":"a"})", "no key \"text\""},
    // Of both forms at once.
    {TaskName::arc_easy,
     R"({"question":"q","choices":{"text":["a","b"],"label":["A","B"]},"answerKey":"A","query":"r","gold":1})",
     "file.jsonl:1: has both \"query\" and \"question\"; a row of arc_easy has either question, choices"},
    {TaskName::arc_challenge, R"({"query":"q","choices":["a","b"],"gold":0,"answerKey":"B"})", "\"answerKey\""},
    {TaskName::boolq, R"({"passage":"p","question":"q","label":0,"query":"r","choices":["no","yes"],"gold":1})",
     "has both \"query\" and \"passage\""},
    {TaskName::hellaswag, R"({"query":"c","choices":["a","b"],"gold":0,"endings":["a","b"]})", "\"endings\""},
    {TaskName::openbookqa, R"({"query":"c","choices":["a","b"],"gold":0,"question_stem":"q"})", "\"question_stem\""},
    {TaskName::piqa, R"({"query":"c","choices":["a","b"],"gold":0,"goal":"q"})", "\"goal\""},
    {TaskName::sciq, R"({"query":"c","choices":["a","b"],"gold":0,"correct_answer":"q"})", "\"correct_answer\""},
    {TaskName::mmlu, R"({"query":"c","choices":["a","b","c","d"],"gold":0,"answer":1})", "\"answer\""},
    {TaskName::winogrande, R"({"context_options":["a","b"],"continuation":"c","gold":1,"sentence":"a _ b"})",
     "has both \"context_options\" and \"sentence\""},
    {TaskName::lambada, R"({"context":"a","continuation":"b","text":"a c"})", "has both \"continuation\" and \"text\""},
    {TaskName::piqa, R"({"doc":{"query":"c","choices":["a","b"],"gold":0,"goal":"q"}})", "has both"},
};

TEST(TaskQuestions, BadRowsAreRefusedByLineAndKey) {
  for (const Bad& bad : kBad) {
    try {
      parse_task(bad.task, bad.text, "file.jsonl");
      ADD_FAILURE() << name_of(bad.task) << " was read: " << bad.text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data) << bad.text;
      EXPECT_NE(std::string(error.what()).find(bad.says), std::string::npos) << bad.text << "\n" << error.what();
    }
  }
  // The second line is named as such.
  try {
    parse_task(TaskName::lambada, "{\"text\":\"a b\"}\n\n{\"text\":5}\n", "f");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "f:3: \"text\": expected a text, got 5");
  }
  for (const char* text :
       {"", "context\n", "context\n4\na\nb\nc\nd\n", "context\n0\na\nb\nc\n", "context\n0\na\n\nc\nd\n"}) {
    EXPECT_THROW(parse_hellaswag_text(text, "f.txt"), Error) << text;
  }
}

class TaskFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "t6-tasks-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, const std::string& text = "x") const { std::ofstream(folder_ / name) << text; }
  std::string refusal(TaskName task) const {
    try {
      return find_task(task, folder_).string();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      return error.what();
    }
  }
  std::filesystem::path folder_;
};

TEST_F(TaskFolder, FilesAreFoundByTheirNames) {
  EXPECT_NE(refusal(TaskName::piqa).find("looked for piqa.jsonl, piqa_validation.jsonl"), std::string::npos);
  EXPECT_NE(refusal(TaskName::hellaswag).find("the same with .txt"), std::string::npos);
  // bzip2 of "A dog\n2\na\nb\nc\nd\n"
  write("hellaswag_val_full.txt.bz2",
        std::string("BZh91AY&SY\370\001\234\333\000\000\004]\000\000\020@\000\020\000 \000<\200\240\0001\0000 "
                    "\006\324\005\352\004\316q\342\356H\247\012\022\037\0003\233`",
                    53));
  const std::filesystem::path packed = find_task(TaskName::hellaswag, folder_);
  EXPECT_EQ(packed.filename(), "hellaswag_val_full.txt.bz2");
  EXPECT_EQ(read_task(TaskName::hellaswag, packed).questions.at(0).prompts.at(2), (Prompt{"A dog", " c"}));
  write("hellaswag_val_full.txt");
  EXPECT_EQ(find_task(TaskName::hellaswag, folder_), folder_ / "hellaswag_val_full.txt");
  write("hellaswag_validation.jsonl.zst");
  EXPECT_EQ(find_task(TaskName::hellaswag, folder_), folder_ / "hellaswag_validation.jsonl.zst");
  write("openbook_qa.jsonl");
  write("openbookqa_train.jsonl");
  EXPECT_EQ(find_task(TaskName::openbookqa, folder_), folder_ / "openbook_qa.jsonl");
  EXPECT_EQ(find_examples(TaskName::openbookqa, folder_), folder_ / "openbookqa_train.jsonl");
  EXPECT_EQ(find_examples(TaskName::piqa, folder_), std::nullopt);
  EXPECT_THROW(find_task(TaskName::piqa, folder_ / "none"), Error);
  try {
    find_task(TaskName::piqa, folder_ / "openbook_qa.jsonl");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("is a file; expected the folder"), std::string::npos) << error.what();
  }
  write("lambada_openai.jsonl", "{\"text\":\"a b\"}\r\n\r\n{\"text\":\"c d\"}");
  EXPECT_EQ(read_task(TaskName::lambada, find_task(TaskName::lambada, folder_)).questions.size(), 2u);
}

// All splits of the data sets lie there, as of a dump: those are taken that the harness takes.
TEST_F(TaskFolder, SplitsAreChosenAsByTheHarness) {
  const std::vector<std::pair<TaskName, const char*>> validated{{TaskName::boolq, "boolq"},
                                                                {TaskName::hellaswag, "hellaswag"},
                                                                {TaskName::piqa, "piqa"},
                                                                {TaskName::winogrande, "winogrande"}};
  const std::vector<std::pair<TaskName, const char*>> tested{{TaskName::arc_easy, "arc_easy"},
                                                             {TaskName::arc_challenge, "ARC-Challenge"},
                                                             {TaskName::openbookqa, "openbookqa"},
                                                             {TaskName::sciq, "sciq"},
                                                             {TaskName::mmlu, "mmlu"},
                                                             {TaskName::lambada, "lambada_openai"}};
  const auto expect = [&](const auto& tasks, const std::string& split) {
    for (const auto& [task, name] : tasks) {
      for (const char* each : {"train", "dev", "validation", "test"}) write(fmt::format("{}_{}.jsonl", name, each));
      EXPECT_EQ(find_task(task, folder_).filename(), name + split);
      EXPECT_EQ(find_examples(task, folder_)->filename(),
                name + std::string(task == TaskName::mmlu ? "_dev.jsonl" : "_train.jsonl"));
    }
  };
  expect(validated, "_validation.jsonl");
  expect(tested, "_test.jsonl");
  // Whichever name of the data set it has.
  write("arc_challenge_validation.jsonl");
  EXPECT_EQ(find_task(TaskName::arc_challenge, folder_).filename(), "ARC-Challenge_test.jsonl");
  write("piqa.jsonl");
  EXPECT_EQ(find_task(TaskName::piqa, folder_).filename(), "piqa.jsonl");
}

}  // namespace
}  // namespace t6::train
