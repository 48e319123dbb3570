#include "data/tokenizer_bench.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "base/error.h"
#include "data/encoder.h"

namespace t6::data {

TokenizerBench bench_tokenizer(const Tokenizer& tokenizer, std::string_view text, double seconds) {
  if (text.empty()) fail(ExitCode::usage, "the tokenizer bench needs some text, got none");
  using Clock = std::chrono::steady_clock;
  Encoder encoder(tokenizer);
  std::vector<uint32_t> ids;
  const auto pass = [&] {
    ids.clear();
    const auto start = Clock::now();
    encoder.encode(text, ids);
    return std::max(std::chrono::duration<double>(Clock::now() - start).count(), 1e-9);
  };
  TokenizerBench result;
  result.bytes = text.size();
  const double megabytes = static_cast<double>(text.size()) * 1e-6;
  result.cold_mb_per_second = megabytes / pass();
  double spent = 0;
  do {
    const double elapsed = pass();
    spent += elapsed;
    ++result.passes;
    result.mb_per_second = std::max(result.mb_per_second, megabytes / elapsed);
  } while (spent < seconds);
  result.tokens = ids.size();
  result.bytes_per_token = static_cast<double>(text.size()) / static_cast<double>(ids.size());
  return result;
}

}  // namespace t6::data
