#include "data/encoder.h"

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "base/error.h"

namespace t6::data {

Encoder::Encoder(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}

void Encoder::encode(std::string_view document, std::vector<uint32_t>& ids) {
  tokenizer_->encode(document, ids);
}

std::vector<std::vector<uint32_t>> encode_documents(const Tokenizer& tokenizer,
                                                    std::span<const std::string_view> documents, int threads) {
  T6_CHECK(threads >= 1, "[encode_documents] expected at least 1 thread, got {}", threads);
  std::vector<Encoder> encoders(static_cast<size_t>(threads), Encoder(tokenizer));
  return encode_documents(encoders, documents);
}

std::vector<std::vector<uint32_t>> encode_documents(std::span<Encoder> encoders,
                                                    std::span<const std::string_view> documents) {
  T6_CHECK(!encoders.empty(), "[encode_documents] expected at least 1 encoder, got none");
  std::vector<std::vector<uint32_t>> ids(documents.size());
  std::atomic<size_t> next{0};
  std::mutex failure_mutex;
  std::exception_ptr failure;
  const auto work = [&](Encoder& encoder) {
    try {
      for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < documents.size();)
        encoder.encode(documents[i], ids[i]);
    } catch (...) {
      next = documents.size();
      const std::lock_guard lock(failure_mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  {
    std::vector<std::jthread> workers;
    for (Encoder& encoder : encoders.subspan(1)) workers.emplace_back([&work, &encoder] { work(encoder); });
    work(encoders.front());
  }
  if (failure) std::rethrow_exception(failure);
  return ids;
}

}  // namespace t6::data
