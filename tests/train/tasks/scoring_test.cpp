// Scores of tasks: tokens and windows, log probabilities against a composed reference, ranks, interruptions,
// comparisons.
#include "train/tasks/scoring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "base/io.h"
#include "support/small_model.h"
#include "support/thread_ranks.h"
#include "train/tasks/compare.h"
#include "train/tasks/during_training.h"

namespace t6::train {
namespace {

using Ids = std::vector<int32_t>;

// Every byte is a token; " the" is one, too.
data::Tokenizer byte_tokenizer() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (const char* more : {"th", "the", " the"}) tokens.emplace_back(more);
  return data::Tokenizer::from_tokens(tokens, "test");
}

Ids bytes(const std::string& text) {
  Ids ids;
  for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
  return ids;
}

TEST(TaskTokens, AContextsLastSpacesBelongToTheContinuation) {
  const data::Tokenizer tokenizer = byte_tokenizer();
  const Encoded plain = encode(tokenizer, {"a:", " the"}, "f");
  EXPECT_EQ(plain.context, bytes("a:"));
  EXPECT_EQ(plain.continuation, Ids{258});
  // " " + "the" is one token only because the space moves.
  const Encoded moved = encode(tokenizer, {"a: ", "the"}, "f");
  EXPECT_EQ(moved.context, bytes("a:"));
  EXPECT_EQ(moved.continuation, Ids{258});
  const Encoded empty = encode(tokenizer, {"", "ab"}, "f");
  EXPECT_EQ(empty.context, Ids{259});  // end of text
  EXPECT_EQ(empty.continuation, bytes("ab"));
  const Encoded blank = encode(tokenizer, {" ", "the"}, "f");
  EXPECT_EQ(blank.context, Ids{259});
  EXPECT_EQ(blank.continuation, Ids{258});
  // "t" + "he" is one token of the whole, which begins in the context: nothing is left.
  EXPECT_THROW(encode(tokenizer, {"a t", "he"}, "f"), Error);
}

TEST(TaskTokens, WindowsAreCutOnTheLeftAndShared) {
  const ItemSequences item = sequences_of({{{1, 2, 3, 4, 5}, {6, 7}}, {{1, 2, 3, 4, 5}, {6, 8}}, {{9}, {6}}}, 4, "f");
  // (1 2 3 4 5 6 7) keeps its last 4 + 1 tokens, the last of which is only a target.
  ASSERT_EQ(item.sequences.size(), 2u);
  EXPECT_EQ(item.sequences[0].input, (Ids{3, 4, 5, 6}));
  EXPECT_EQ(item.sequences[0].targets, (std::vector<Ids>{{6, 7}, {6, 8}}));
  EXPECT_EQ(item.sequences[1].input, Ids{9});
  EXPECT_EQ(item.prompts[1].sequence, 0u);
  EXPECT_EQ(item.prompts[1].target, 1u);
  EXPECT_EQ(item.prompts[2].sequence, 1u);
  // A continuation as long as the window leaves one token of context; a longer one is refused.
  EXPECT_EQ(sequences_of({{{1, 2}, {3, 4, 5, 6}}}, 4, "f").sequences[0].input, (Ids{2, 3, 4, 5}));
  EXPECT_THROW(sequences_of({{{1}, {2, 3, 4, 5, 6}}}, 4, "f"), Error);
}

TEST(TaskTokens, BatchesAreFormedByLength) {
  const std::vector<size_t> lengths{3, 10, 4, 4, 25, 3};
  using Batches = std::vector<std::vector<size_t>>;
  EXPECT_EQ(batches_of(lengths, 12, 1), (Batches{{4}, {1}, {2, 3, 0}, {5}}));
  EXPECT_EQ(batches_of(lengths, 16, 8), (Batches{{4}, {1}, {2, 3}, {0, 5}}));
}

// log_softmax in f64 of the logits of each sequence on its own.
Likelihood reference(const Transformer& model, const Sequence& sequence, const Ids& targets) {
  const Tensor tokens = Tensor::from<int32_t>({1, static_cast<int64_t>(sequence.input.size())}, sequence.input);
  const std::vector<double> logits = model.logits(tokens).to_doubles();
  const auto columns = static_cast<size_t>(model.config().vocab_size);
  Likelihood found;
  for (size_t i = 0; i < targets.size(); ++i) {
    const double* row = logits.data() + (sequence.input.size() - targets.size() + i) * columns;
    double sum = 0;
    for (size_t j = 0; j < columns; ++j) sum += std::exp(row[j]);
    found.log_probability += row[targets[i]] - std::log(sum);
    found.likeliest = found.likeliest && std::max_element(row, row + columns) - row == targets[i];
  }
  return found;
}

TEST(TaskScores, LogProbabilitiesAreThoseOfTheLogits) {
  for (const AttentionKind kind : {AttentionKind::tpa, AttentionKind::mla, AttentionKind::gqa}) {
    Transformer model(test::small_model_config(kind));
    test::allocate_random(model, DType::f32);
    const ScoredTransformer scored(model);
    EXPECT_EQ(scored.window(), 24);
    // Hundreds of rows: more than one chunk of logits. Some of the targets are what the model likes best.
    std::vector<Sequence> sequences;
    for (uint64_t i = 0; i < 40; ++i) {
      const auto length = static_cast<int64_t>(1 + i * 7 % 24);
      const Tensor ids = test::random_tokens(1, length, 37, i);
      Sequence sequence{Ids(ids.data<int32_t>(), ids.data<int32_t>() + length), {}};
      const auto rows = static_cast<size_t>(1 + static_cast<int64_t>(i) % length);
      const Tensor targets = test::random_tokens(1, 24, 37, 1000 + i);
      sequence.targets.emplace_back(targets.data<int32_t>(), targets.data<int32_t>() + rows);
      if (i % 3 == 0) {
        const std::vector<double> logits =
            model.logits(Tensor::from<int32_t>({1, length}, sequence.input)).to_doubles();
        Ids best;
        for (size_t row = static_cast<size_t>(length) - rows; row < static_cast<size_t>(length); ++row) {
          const auto begin = logits.begin() + static_cast<ptrdiff_t>(row * 37);
          best.push_back(static_cast<int32_t>(std::max_element(begin, begin + 37) - begin));
        }
        sequence.targets.push_back(best);
      }
      sequences.push_back(std::move(sequence));
    }
    std::vector<const Sequence*> batch;
    for (const Sequence& sequence : sequences) batch.push_back(&sequence);
    const auto found = scored.score(batch, true);
    size_t likeliest = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      ASSERT_EQ(found[i].size(), sequences[i].targets.size());
      const auto alone = scored.score(std::span(batch).subspan(i, 1), true);
      for (size_t list = 0; list < found[i].size(); ++list) {
        const Likelihood expected = reference(model, sequences[i], sequences[i].targets[list]);
        EXPECT_NEAR(found[i][list].log_probability, expected.log_probability, 2e-5) << i;
        EXPECT_NEAR(alone[0][list].log_probability, expected.log_probability, 2e-5) << i;
        EXPECT_EQ(found[i][list].likeliest, expected.likeliest) << i;
        likeliest += found[i][list].likeliest;
      }
    }
    EXPECT_GE(likeliest, 14u);
  }
}

// Knows the right texts, or nothing: then scores are a function of the tokens alone.
class Stub final : public LanguageModel {
 public:
  explicit Stub(std::set<Ids> right = {}) : right_(std::move(right)) {}
  int64_t window() const override { return 256; }
  std::vector<std::vector<Likelihood>> score(std::span<const Sequence* const> batch, bool) const override {
    std::vector<std::vector<Likelihood>> found;
    for (const Sequence* sequence : batch) {
      found.emplace_back();
      for (const Ids& targets : sequence->targets) {
        Ids whole = sequence->input;
        whole.push_back(targets.back());
        uint64_t hash = 1469598103934665603u;
        for (const int32_t id : whole) hash = (hash ^ static_cast<uint64_t>(id)) * 1099511628211u;
        const bool right = right_.contains(whole);
        // As with real ones, company in a batch shows in the last bits.
        const double rounding = right ? 0 : 1e-9 * static_cast<double>(batch.size());
        found.back().push_back({(right ? -0.5 : -1.0 - static_cast<double>(hash >> 40)) - rounding, right});
      }
    }
    return found;
  }

 private:
  std::set<Ids> right_;
};

std::string piqa_rows(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += R"({"goal":"g)" + std::to_string(i) + R"(","sol1":"use it)" +
            std::string(static_cast<size_t>(i % 13), '!') + R"(","sol2":"eat it","label":)" +
            std::to_string(i * 7 % 3 % 2) + "}\n";
  }
  return text;
}

PreparedTask prepared(TaskName task, const std::string& text, const TaskOptions& options = {}) {
  return prepare_task(task, TaskFile{"file.jsonl", "hash", parse_task(task, text, "file.jsonl")}, {}, options,
                      byte_tokenizer(), 256);
}

TEST(TaskScores, AnOracleIsAlwaysRightAndChanceIsChance) {
  const PreparedTask piqa = prepared(TaskName::piqa, piqa_rows(1000));
  std::set<Ids> right;
  for (const Question& question : parse_task(TaskName::piqa, piqa_rows(1000), "file.jsonl")) {
    const Prompt& prompt = question.prompts[question.gold];
    right.insert(bytes(prompt.context + prompt.continuation));
  }
  // The texts are not kept.
  EXPECT_EQ(piqa.questions[7].prompts, std::vector<Prompt>(2));
  EXPECT_EQ(piqa.questions[7].example, "");
  dist::Communicator& one = dist::one_rank();
  const TaskScore oracle = score_of(TaskName::piqa, score_task(Stub(right), piqa, {}, one));
  EXPECT_EQ(oracle.acc, 1);
  EXPECT_EQ(oracle.acc_norm, 1);
  EXPECT_EQ(oracle.acc_stderr, 0);
  const TaskScore chance = score_of(TaskName::piqa, score_task(Stub(), piqa, {}, one));
  EXPECT_NEAR(chance.acc, 0.5, 4 * 0.0158);
  EXPECT_NEAR(chance.acc_stderr, std::sqrt(chance.acc * (1 - chance.acc) / 999), 1e-12);

  // lambada: right is what the model would write; its perplexity is that of the word.
  const PreparedTask words = prepared(TaskName::lambada, "{\"text\":\"a b\"}\n{\"text\":\"a c\"}\n");
  const TaskScore lambada = score_of(TaskName::lambada, score_task(Stub({bytes("a b")}), words, {}, one));
  EXPECT_EQ(lambada.acc, 0.5);
  EXPECT_EQ(score_of(TaskName::lambada, score_task(Stub({bytes("a b"), bytes("a c")}), words, {}, one)).perplexity,
            std::exp(0.5));
}

TEST(TaskScores, NormIsByCharacters) {
  Question question;
  question.prompts.resize(2);
  question.lengths = {10, 2};
  question.gold = 0;
  const ItemResult result = judge(TaskName::piqa, question, {-10, -4}, true);
  EXPECT_FALSE(result.correct);
  EXPECT_EQ(result.correct_norm, true);  // -1 a character against -2
  question.gold = 1;
  EXPECT_TRUE(judge(TaskName::winogrande, question, {-10, -4}, true).correct);
  EXPECT_EQ(judge(TaskName::winogrande, question, {-10, -4}, true).correct_norm, std::nullopt);
  EXPECT_FALSE(judge(TaskName::piqa, question, {-4, -4}, true).correct);  // the first of equal ones
}

class TaskResults : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "t6-scores-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  ScoringOptions into(const std::string& name, const std::string& model = "m") const {
    return {.batch_tokens = 500,
            .out = folder_ / name,
            .of = std::make_shared<const nlohmann::ordered_json>(nlohmann::ordered_json{{"checkpoint", model}})};
  }
  std::string text(const std::string& name) const { return io::read_text(folder_ / name / "piqa.jsonl"); }
  std::filesystem::path folder_;
};

TEST_F(TaskResults, AreTheSameOnAnyNumberOfRanks) {
  ModelConfig config = test::small_model_config(AttentionKind::tpa);
  config.vocab_size = 260;
  config.context = 40;
  Transformer model(config);
  test::allocate_random(model, DType::f32);
  const ScoredTransformer scored(model);
  const PreparedTask task =
      prepare_task(TaskName::piqa, TaskFile{"f", "hash", parse_task(TaskName::piqa, piqa_rows(40), "f")}, {},
                   {.shots = 1}, byte_tokenizer(), config.context);
  const std::vector<ItemResult> alone = score_task(scored, task, into("1"), dist::one_rank());
  ASSERT_EQ(alone.size(), 40u);
  for (const int world : {2, 3}) {
    const ScoringOptions options = into(std::to_string(world));
    test::on_ranks(world, [&](const std::shared_ptr<dist::Communicator>& communicator) {
      const std::vector<ItemResult> results = score_task(scored, task, options, *communicator);
      EXPECT_TRUE(results == alone) << world;
      // Once more: all of it is there already.
      const std::vector<ItemResult> again = score_task(scored, task, options, *communicator);
      EXPECT_TRUE(again == alone) << world;
    });
    EXPECT_EQ(text(std::to_string(world)), text("1"));
  }
}

// Places of ranks can be compared: the watchdog finds the slowest by them.
TEST(TaskScores, AllRanksPassTheSamePlaces) {
  const PreparedTask task = prepared(TaskName::piqa, piqa_rows(21));
  for (const int world : {2, 3}) {
    std::vector<std::vector<std::string>> phases(static_cast<size_t>(world));
    test::on_ranks(world, [&](const std::shared_ptr<dist::Communicator>& communicator) {
      std::vector<std::string>& mine = phases[static_cast<size_t>(communicator->rank())];
      score_task(Stub(), task, {.batch_tokens = 120, .on_phase = [&](const char* phase) { mine.emplace_back(phase); }},
                 *communicator);
    });
    EXPECT_GT(phases[0].size(), 3u);
    EXPECT_EQ(phases[0].back(), "waiting for the scores of all ranks");
    for (const auto& each : phases) EXPECT_EQ(each, phases[0]);
  }
}

TEST_F(TaskResults, GoOnAfterAnInterruptionToTheSameBytes) {
  const PreparedTask task = prepared(TaskName::piqa, piqa_rows(1300));
  const Stub model;
  const std::vector<ItemResult> whole = score_task(model, task, into("whole"), dist::one_rank());
  const std::string expected = text("whole");

  struct Killed {};
  for (const int batches : {0, 40, 120}) {
    const std::string name = "part" + std::to_string(batches);
    ScoringOptions options = into(name);
    int count = 0;
    options.on_phase = [&](const char*) {
      if (count++ == batches) throw Killed();
    };
    EXPECT_THROW(score_task(model, task, options, dist::one_rank()), Killed);
    const std::string part = text(name);
    EXPECT_EQ(expected.substr(0, part.size()), part);
    EXPECT_LT(part.size(), expected.size());
    EXPECT_TRUE(score_task(model, task, into(name), dist::one_rank()) == whole);
    EXPECT_EQ(text(name), expected) << batches;
  }
  // However the file was cut off.
  for (const size_t size : {size_t{0}, size_t{5}, size_t{400}, expected.size() / 2, expected.size() - 1}) {
    io::write_text_atomically(folder_ / "whole" / "piqa.jsonl", expected.substr(0, size));
    EXPECT_TRUE(score_task(model, task, into("whole"), dist::one_rank()) == whole) << size;
    EXPECT_EQ(text("whole"), expected) << size;
  }
}

TEST_F(TaskResults, OfSomethingElseAreRefused) {
  const PreparedTask task = prepared(TaskName::piqa, piqa_rows(3));
  const auto refusal = [&](const PreparedTask& asked, const ScoringOptions& options) -> std::string {
    try {
      score_task(Stub(), asked, options, dist::one_rank());
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      return error.what();
    }
  };
  EXPECT_EQ(refusal(task, into("a")), "");
  EXPECT_NE(refusal(task, into("a", "other")).find("\"checkpoint\" is \"m\" there and \"other\" here"),
            std::string::npos);
  EXPECT_NE(refusal(prepared(TaskName::piqa, piqa_rows(4)), into("a")).find("\"items\" is 3 there and 4 here"),
            std::string::npos);
  EXPECT_NE(refusal(prepared(TaskName::piqa, piqa_rows(3), {.shots = 1}), into("a")).find("\"shots\""),
            std::string::npos);
  const std::string good = text("a");
  const auto write = [&](const std::string& held) { io::write_text_atomically(folder_ / "a" / "piqa.jsonl", held); };
  for (const std::string& bad : {std::string("notes\n"), std::string("no end"), good + "{\"item\":3}\n", "\n" + good,
                                 good.substr(0, good.find('\n') + 1) + "\n" + good.substr(good.find('\n') + 1),
                                 good.substr(0, good.find('\n') + 1) + good.substr(good.find("{\"item\":1"))}) {
    write(bad);
    EXPECT_NE(refusal(task, into("a")), "") << bad;
    EXPECT_EQ(text("a"), bad);
  }
}

TEST_F(TaskResults, AreWrittenByOneAtATime) {
  const PreparedTask task = prepared(TaskName::piqa, piqa_rows(3));
  const Stub model;
  ScoringOptions options = into("a");
  options.on_phase = [&](const char*) {
    try {
      score_task(model, task, into("a"), dist::one_rank());
      ADD_FAILURE() << "two at once";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::io);
      EXPECT_NE(std::string(error.what()).find("another t6 eval"), std::string::npos) << error.what();
    }
  };
  const std::vector<ItemResult> results = score_task(model, task, options, dist::one_rank());
  EXPECT_TRUE(score_task(model, task, into("a"), dist::one_rank()) == results);
}

// What the time of the first scoring is guessed from.
TEST_F(TaskResults, TokensOfAllTasksAreCounted) {
  io::write_text_atomically(folder_ / "lambada.jsonl",
                            "{\"text\":\"ab cd\"}\n{\"text\":\"a b\"}\n{\"text\":\"a b\"}\n");
  io::write_text_atomically(folder_ / "piqa.jsonl", piqa_rows(1));
  byte_tokenizer().save(folder_ / "t.tiktoken");
  RunConfig config;
  config.model.context = 256;
  config.train.micro_batch = 1;
  config.data.tokenizer = (folder_ / "t.tiktoken").string();
  config.scores.data = folder_.string();
  EXPECT_EQ(TrainingScores(config).tokens(), 0u);
  config.scores.tasks = {TaskName::lambada};
  config.scores.limit = 2;
  EXPECT_EQ(TrainingScores(config).tokens(), 4u + 2u);  // the last token is a target alone
  config.scores.tasks = {TaskName::lambada, TaskName::piqa};
  EXPECT_EQ(TrainingScores(config).tokens(), 6u + std::string("Question: g0\nAnswer: use it").size() - 1 +
                                                 std::string("Question: g0\nAnswer: eat it").size() - 1);
}

TEST_F(TaskResults, ThatAreNotFiniteEndTheScoring) {
  class Broken final : public LanguageModel {
   public:
    int64_t window() const override { return 256; }
    std::vector<std::vector<Likelihood>> score(std::span<const Sequence* const> batch, bool) const override {
      std::vector<std::vector<Likelihood>> found;
      for (const Sequence* sequence : batch)
        found.emplace_back(sequence->targets.size(), Likelihood{std::nan(""), true});
      return found;
    }
  };
  try {
    score_task(Broken(), prepared(TaskName::piqa, piqa_rows(3)), {}, dist::one_rank());
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::numeric);
  }
}

TEST(TaskCompare, PairsOfRightAndWrong) {
  const auto saved = [](const std::vector<int>& right) {
    SavedResults results;
    results.task = TaskName::winogrande;
    for (size_t i = 0; i < right.size(); ++i) {
      results.items.push_back(
          {.gold = 0, .scores = {-1}, .correct = right[i] == 1, .correct_norm = {}, .prompt = std::to_string(i)});
    }
    return results;
  };
  const SavedResults a = saved({1, 1, 0, 0, 1, 0}), b = saved({1, 0, 1, 1, 1, 0, 1});
  const std::vector<Comparison> rows = compare(a, b, "a", "b");
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].items, 6u);
  EXPECT_DOUBLE_EQ(rows[0].first, 3.0 / 6);
  EXPECT_DOUBLE_EQ(rows[0].second, 4.0 / 6);
  EXPECT_EQ(rows[0].only_first, 1u);
  EXPECT_EQ(rows[0].only_second, 2u);
  // Differences 0 -1 1 1 0 0: mean 1/6, sum of squares 3 - 6/36.
  EXPECT_NEAR(rows[0].stderr_of_it, std::sqrt((3 - 1.0 / 6) / 5 / 6), 1e-12);
  EXPECT_NEAR(rows[0].p, 1.0, 1e-9);
  EXPECT_NEAR(sign_test(1, 9), 2 * 11.0 / 1024, 1e-12);
  EXPECT_NEAR(sign_test(0, 0), 1, 1e-12);
  SavedResults other = b;
  other.items[2].prompt = "x";
  EXPECT_THROW(compare(a, other, "a", "b"), Error);
}

TEST(TaskCompare, UnfinishedResultsAreRefused) {
  const auto saved = [](size_t items, size_t there) {
    SavedResults results;
    results.task = TaskName::winogrande;
    results.asked = items;
    for (size_t i = 0; i < there; ++i) {
      results.items.push_back(
          {.gold = 0, .scores = {-1}, .correct = true, .correct_norm = {}, .prompt = std::to_string(i)});
    }
    return results;
  };
  const auto refusal = [&](const SavedResults& a, const SavedResults& b) -> std::string {
    try {
      compare(a, b, "a", "b");
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      return error.what();
    }
  };
  EXPECT_EQ(refusal(saved(1100, 1100), saved(1100, 1100)), "");
  EXPECT_EQ(refusal(saved(1100, 1100), saved(1100, 512)),
            "b is unfinished: 512 of 1,100 items; the same t6 eval again finishes it");
  EXPECT_NE(refusal(saved(1100, 512), saved(1100, 1100)).find("a is unfinished"), std::string::npos);
  EXPECT_NE(refusal(saved(1100, 0), saved(1100, 1100)).find("a is unfinished: 0 of 1,100"), std::string::npos);
  // Of other items than the other, by --limit: those that both have are compared, which `items` tells.
  EXPECT_EQ(refusal(saved(1100, 1100), saved(20, 20)), "");
  EXPECT_EQ(compare(saved(1100, 1100), saved(20, 20), "a", "b")[0].items, 20u);
}

TEST(TaskCompare, ResultsReadBack) {
  const ItemResult result{
      .gold = 1, .scores = {-1.25, -1e-300}, .correct = true, .correct_norm = false, .prompt = "ab"};
  EXPECT_TRUE(from_line(to_line(7, result), 7) == result);
  EXPECT_EQ(from_line(to_line(7, result), 8), std::nullopt);
  const std::string header = "{\"kind\":\"t6-scores\",\"version\":1,\"task\":\"piqa\"}\n";
  EXPECT_EQ(parse_results(header + to_line(0, result) + "{\"torn", "f").items.size(), 1u);
  EXPECT_EQ(parse_results(header, "f").asked, std::nullopt);
  EXPECT_EQ(parse_results("{\"kind\":\"t6-scores\",\"version\":1,\"task\":\"piqa\",\"items\":7}\n", "f").asked, 7u);
  for (const std::string& bad :
       {std::string("{}\n"), header + "{}\n", header + to_line(1, result), "\n" + header, header + "\n",
        header + "\n" + to_line(0, result), std::string("{\"kind\":\"t6-scores\",\"version\":1,\"task\":\"x\"}\n")}) {
    EXPECT_THROW(parse_results(bad, "f"), Error) << bad;
  }
}

}  // namespace
}  // namespace t6::train
