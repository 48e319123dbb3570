// Encoding a corpus: a tokenizer with a word cache, and many documents on several threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"

namespace t6::data {

// Encodes documents one after the other; remembers the ids of words it has met in tables of fixed size (about 3 MB).
// Same ids as Tokenizer::encode. Not for use by two threads at once. The tokenizer must outlive it.
class Encoder {
 public:
  explicit Encoder(const Tokenizer& tokenizer);
  Encoder(Encoder&&) noexcept;
  Encoder& operator=(Encoder&&) noexcept;
  ~Encoder();

  // Appends the ids of one whole document.
  void encode(std::string_view document, std::vector<uint32_t>& ids);

  const Tokenizer& tokenizer() const { return *tokenizer_; }

 private:
  struct Cache;
  class Output;

  void encode_long(std::string_view piece, Output& output);
  void encode_anew(std::string_view piece);

  const Tokenizer* tokenizer_;
  std::unique_ptr<Cache> cache_;
  std::vector<uint32_t> scratch_;  // ids of the piece last encoded anew
};

// The ids of each document, without end-of-text. `threads` >= 1 workers take documents in turn; the result does not
// depend on it.
std::vector<std::vector<uint32_t>> encode_documents(const Tokenizer& tokenizer,
                                                    std::span<const std::string_view> documents, int threads);
// The same with the encoders (one a worker) kept by the caller, whose caches stay warm from batch to batch.
std::vector<std::vector<uint32_t>> encode_documents(std::span<Encoder> encoders,
                                                    std::span<const std::string_view> documents);

}  // namespace t6::data
