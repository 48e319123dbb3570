#include "data/tokenize.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "base/error.h"
#include "data/encoder.h"

namespace t6::data {
namespace {

// Text in flight between reader and writer, beyond one block.
constexpr uint64_t kMaxBytesInFlight = uint64_t{256} << 20;

// One block on its way: read, encoded by some worker, written in the order of reading.
struct Job {
  CorpusBlock block;
  std::vector<uint32_t> ids;  // of all documents, one after the other
  std::vector<size_t> ends;   // of each document in ids
  uint64_t text_bytes = 0;
  uint64_t empty_documents = 0;
  uint64_t bytes_read = 0;  // by the reader, up to and with this block
  std::exception_ptr error;
  bool done = false;
};

class Pipeline {
 public:
  Pipeline(CorpusReader& reader, const Tokenizer& tokenizer, int workers)
      : reader_(reader), max_jobs_(2 * workers + 2) {
    threads_.emplace_back([this] { read(); });
    for (int i = 0; i < workers; ++i) {
      threads_.emplace_back([this, &tokenizer] { encode(tokenizer); });
    }
  }
  ~Pipeline() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    reader_.stop();  // it may wait for the next line of a pipe
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  // The next encoded block in the order of reading, or null after the last; throws what reading or encoding it threw.
  std::shared_ptr<Job> take() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return order_.empty() ? read_all_ : order_.front()->done; });
    if (order_.empty()) return nullptr;
    std::shared_ptr<Job> job = std::move(order_.front());
    order_.pop_front();
    bytes_in_flight_ -= job->block.size;
    lock.unlock();
    changed_.notify_all();
    if (job->error) std::rethrow_exception(job->error);
    return job;
  }

 private:
  void read() {
    for (bool more = true; more;) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] {
          return stopping_ || order_.empty() || (order_.size() < max_jobs_ && bytes_in_flight_ < kMaxBytesInFlight);
        });
        if (stopping_) return;
      }
      auto job = std::make_shared<Job>();
      try {
        std::optional<CorpusBlock> block = reader_.next();
        if (block) {
          job->block = std::move(*block);
        } else {
          job.reset();
        }
      } catch (...) {
        job->error = std::current_exception();
        job->done = true;
      }
      more = job && !job->error;
      if (job) job->bytes_read = reader_.bytes_read();
      {
        const std::lock_guard lock(mutex_);
        if (job) {
          bytes_in_flight_ += job->block.size;
          order_.push_back(job);
          if (more) waiting_.push_back(std::move(job));
        }
        read_all_ = !more;
      }
      changed_.notify_all();
    }
  }

  void encode(const Tokenizer& tokenizer) {
    std::optional<Encoder> encoder;
    std::optional<DocumentSplitter> splitter;
    while (true) {
      std::shared_ptr<Job> job;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return stopping_ || !waiting_.empty() || read_all_; });
        if (stopping_ || waiting_.empty()) return;
        job = std::move(waiting_.front());
        waiting_.pop_front();
      }
      try {
        if (!encoder) encoder.emplace(tokenizer);
        if (!splitter) splitter.emplace(reader_.options());
        job->empty_documents = splitter->for_each(job->block, [&](std::string_view document) {
          encoder->encode(document, job->ids);
          job->ends.push_back(job->ids.size());
          job->text_bytes += document.size();
        });
      } catch (...) {
        job->error = std::current_exception();
      }
      job->block.text = {};
      {
        const std::lock_guard lock(mutex_);
        job->done = true;
      }
      changed_.notify_all();
    }
  }

  CorpusReader& reader_;
  size_t max_jobs_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> order_;    // in the order of reading
  std::deque<std::shared_ptr<Job>> waiting_;  // those of them that no worker has
  uint64_t bytes_in_flight_ = 0;
  bool read_all_ = false;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

std::string names_of(const std::vector<std::string>& inputs) {
  std::string names;
  for (const std::string& input : inputs) {
    if (!names.empty()) names += ' ';
    names += input == "-" ? "standard input" : std::filesystem::path(input).filename().string();
  }
  return names;
}

}  // namespace

TokenizeResult tokenize(const std::vector<std::string>& inputs, const Tokenizer& tokenizer, ShardWriterOptions output,
                        const TokenizeOptions& options) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  output.vocabulary = tokenizer.vocab_size();
  output.end_of_text = tokenizer.end_of_text();
  output.tokenizer_hash = tokenizer.hash_text();
  output.source = names_of(inputs);
  if (options.workers < 0) fail(ExitCode::usage, "expected at least one worker, got {}", options.workers);
  const int workers =
      options.workers > 0 ? options.workers : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));

  CorpusReader reader(inputs, options.corpus);
  ShardWriter writer(std::move(output));
  TokenizeProgress progress;
  progress.bytes_total = reader.bytes_total();
  Clock::time_point reported = begin;
  const auto report = [&] {
    reported = Clock::now();
    progress.documents = writer.documents();
    progress.tokens = writer.tokens();
    progress.seconds = std::chrono::duration<double>(reported - begin).count();
    if (options.progress) options.progress(progress);
  };
  {
    Pipeline pipeline(reader, tokenizer, workers);
    while (const std::shared_ptr<Job> job = pipeline.take()) {
      size_t from = 0;
      for (const size_t end : job->ends) {
        writer.add_document(std::span(job->ids).subspan(from, end - from));
        from = end;
      }
      progress.text_bytes += job->text_bytes;
      progress.empty_documents += job->empty_documents;
      progress.bytes_read = job->bytes_read;
      if (std::chrono::duration<double>(Clock::now() - reported).count() >= options.progress_seconds) report();
    }
  }
  TokenizeResult result;
  result.shards = writer.finish();
  progress.bytes_read = reader.bytes_read();
  report();
  result.totals = progress;
  return result;
}

}  // namespace t6::data
