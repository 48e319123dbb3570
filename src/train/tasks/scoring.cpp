#include "train/tasks/scoring.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/io.h"
#include "base/progress.h"
#include "dist/agree.h"
#include "train/tasks/shots.h"

namespace t6::train {
namespace {

using Json = nlohmann::ordered_json;

std::string hash_of(const Question& question) {
  std::string all;
  for (const Prompt& prompt : question.prompts) {
    for (const std::string* text : {&prompt.context, &prompt.continuation}) {
      all += std::to_string(text->size()) + ":" + *text;
    }
  }
  return io::hash_bytes(std::as_bytes(std::span(all))).substr(0, 16);
}

Json header_of(const PreparedTask& task, const ScoringOptions& options) {
  Json header{{"kind", "t6-scores"}, {"version", 1}, {"task", name_of(task.name)}};
  if (options.of) {
    for (const auto& [key, value] : options.of->items()) header[key] = value;
  }
  header["file"] = task.hash;
  header["examples"] = task.examples_hash;
  header["shots"] = task.options.shots;
  header["seed"] = task.options.seed;
  header["items"] = task.questions.size();
  header["batch_tokens"] = options.batch_tokens;
  return header;
}

// One sequence of a block.
struct Work {
  size_t item;
  const Sequence* sequence;
  size_t first_slot;  // of its target lists among all of the block
};

// Scores of the items [begin, end), whose batches the ranks take in turn.
class Block {
 public:
  Block(const PreparedTask& task, size_t begin, size_t end) : task_(task), begin_(begin), end_(end) {
    for (size_t item = begin; item < end; ++item) {
      first_work_.push_back(work_.size());
      for (const Sequence& sequence : task.items[item].sequences) {
        work_.push_back({item, &sequence, slots_});
        slots_ += sequence.targets.size();
      }
    }
  }

  template <class OnBatch>
  void run(const LanguageModel& model, size_t batch_tokens, dist::Communicator& communicator, OnBatch&& on_batch) {
    std::vector<size_t> lengths;
    for (const Work& work : work_) lengths.push_back(work.sequence->input.size());
    const auto batches = batches_of(lengths, batch_tokens, static_cast<size_t>(model.multiple()));
    // Log probabilities, then whether they are the likeliest. Where another rank knows it stays zero, and adding zeros
    // is exact.
    std::vector<double> found(2 * slots_, 0);
    const auto rank = static_cast<size_t>(communicator.rank()), world = static_cast<size_t>(communicator.world());
    for (size_t first = 0; first < batches.size(); first += world) {
      on_batch(first, batches.size());
      const size_t i = first + rank;
      if (i >= batches.size()) break;  // of the last round
      std::vector<const Sequence*> batch;
      for (const size_t at : batches[i]) batch.push_back(work_[at].sequence);
      const auto scored = model.score(batch, task_.name == TaskName::lambada);
      for (size_t k = 0; k < batch.size(); ++k) {
        for (size_t list = 0; list < scored[k].size(); ++list) {
          const size_t slot = work_[batches[i][k]].first_slot + list;
          found[slot] = scored[k][list].log_probability;
          found[slots_ + slot] = scored[k][list].likeliest ? 1 : 0;
        }
      }
    }
    on_batch(batches.size(), batches.size());
    if (world > 1) {
      const Tensor all = Tensor::from<double>({static_cast<int64_t>(found.size())}, found).to(model.device());
      communicator.all_reduce(all);
      communicator.wait();
      found = all.to_doubles();
    }
    found_ = std::move(found);
  }

  ItemResult result(size_t item) const {
    const ItemSequences& sequences = task_.items[item];
    std::vector<double> scores;
    bool likeliest = true;
    for (const ItemSequences::Place& place : sequences.prompts) {
      const size_t slot = work_[first_work_[item - begin_] + place.sequence].first_slot + place.target;
      scores.push_back(found_[slot]);
      likeliest = likeliest && found_[slots_ + slot] == 1;
    }
    ItemResult result = judge(task_.name, task_.questions[item], std::move(scores), likeliest);
    result.prompt = task_.hashes[item];
    return result;
  }

 private:
  const PreparedTask& task_;
  size_t begin_, end_, slots_ = 0;
  std::vector<Work> work_;
  std::vector<size_t> first_work_;  // by item of the block
  std::vector<double> found_;
};

// The results that rank 0 holds, on every rank.
std::vector<ItemResult> spread(const std::optional<ResultsFile>& file, dist::Communicator& communicator) {
  if (communicator.world() == 1) return file ? file->kept() : std::vector<ItemResult>();
  std::string lines;
  if (file) {
    for (size_t i = 0; i < file->kept().size(); ++i) lines += to_line(i, file->kept()[i]);
  }
  const std::string all = communicator.all_gather_text(lines).front();
  std::vector<ItemResult> kept;
  for (size_t at = 0; at < all.size();) {
    const size_t end = all.find('\n', at);
    std::optional<ItemResult> result = from_line(std::string_view(all).substr(at, end - at), kept.size());
    T6_CHECK(result.has_value(), "[score_task] expected the result of item {} from rank 0", kept.size());
    kept.push_back(std::move(*result));
    at = end + 1;
  }
  return kept;
}

void require_finite(const PreparedTask& task, size_t item, const ItemResult& result,
                    const dist::Communicator& communicator) {
  if (std::all_of(result.scores.begin(), result.scores.end(), [](double score) { return std::isfinite(score); })) {
    return;
  }
  dist::alike(communicator, [&] {
    fail(ExitCode::numeric, "task {}, item {}: the model's scores are not finite", name_of(task.name), item);
  });
}

}  // namespace

PreparedTask prepare_task(TaskName task, TaskFile file, std::span<const Question> pool, const TaskOptions& options,
                          const data::Tokenizer& tokenizer, int64_t window) {
  PreparedTask prepared{task, file.path, file.hash, {}, options, {}, {}, {}};
  const size_t count =
      options.limit > 0 ? std::min(static_cast<size_t>(options.limit), file.questions.size()) : file.questions.size();
  const Shots shots(task, file.questions, pool, options.shots, options.seed, file.path.string());
  for (size_t i = 0; i < count; ++i) {
    const std::string before = shots.before(i);
    Question question = file.questions[i];
    std::vector<Encoded> encoded;
    const std::string where = fmt::format("{}: item {}", file.path.string(), i);
    for (Prompt& prompt : question.prompts) {
      prompt.context = before + prompt.context;
      encoded.push_back(encode(tokenizer, prompt, where));
    }
    prepared.items.push_back(sequences_of(encoded, window, where));
    prepared.hashes.push_back(hash_of(question));
    // The texts are tokens now.
    question.preamble.clear();
    question.example = {};
    for (Prompt& prompt : question.prompts) prompt = {};
    prepared.questions.push_back(std::move(question));
  }
  return prepared;
}

PreparedTask prepare_task(TaskName task, const std::filesystem::path& folder, const TaskOptions& options,
                          const data::Tokenizer& tokenizer, int64_t window) {
  TaskFile file = read_task(task, find_task(task, folder));
  TaskFile examples;
  if (options.shots > 0) {
    if (const auto path = find_examples(task, folder)) examples = read_task(task, *path);
  }
  PreparedTask prepared = prepare_task(task, std::move(file), examples.questions, options, tokenizer, window);
  prepared.examples_hash = examples.hash;
  return prepared;
}

std::vector<ItemResult> score_task(const LanguageModel& model, const PreparedTask& task, const ScoringOptions& options,
                                   dist::Communicator& communicator) {
  const Json header = header_of(task, options);
  dist::require_alike(communicator, ExitCode::data, fmt::format("files or settings of task {}", name_of(task.name)),
                      header.dump(), "give every rank the same");
  std::optional<ResultsFile> file;
  dist::agree(communicator, [&] {
    if (options.out && communicator.is_root()) file.emplace(*options.out, task.name, header, task.hashes, kBlockItems);
  });
  std::vector<ItemResult> results = spread(file, communicator);

  const size_t count = task.questions.size();
  Progress progress({.label = std::string(name_of(task.name)),
                     .unit = "item",
                     .total = count,
                     .start = results.size(),
                     .plain_lines = options.plain_lines,
                     .summary = false});
  while (results.size() < count) {
    const size_t begin = results.size(), end = std::min(begin + kBlockItems, count);
    Block block(task, begin, end);
    block.run(model, options.batch_tokens, communicator, [&](size_t batch, size_t batches) {
      if (options.on_phase) {
        options.on_phase(batch < batches ? "scores of tasks" : "waiting for the scores of all ranks");
      }
      progress.set(begin + (end - begin) * batch / batches);
    });
    for (size_t item = begin; item < end; ++item) {
      results.push_back(block.result(item));
      require_finite(task, item, results.back(), communicator);
    }
    dist::agree(communicator, [&] {
      if (file) file->append(begin, std::span(results).subspan(begin));
    });
    progress.set(end);
  }
  progress.finish();
  return results;
}

}  // namespace t6::train
