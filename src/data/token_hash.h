// A running fingerprint of the tokens a run has consumed: two runs that saw the same data in the same order show the
// same one.
//
// It is the sum modulo 2^128 over all consumed rows of XXH3-128(the row's T + 1 ids as little-endian int32, seeded with
// the row's position step * global_batch + row). The position makes it depend on the order, and the sum makes it
// independent of how rows are divided: hashes of ranks, of micro-batches, of the parts before and after an interruption
// simply add up, with no communication until one is logged. (A chain hash(previous || batch) would need every row on
// every rank at every step.)
#pragma once

#include <cstdint>
#include <span>
#include <string>

namespace t6::data {

class TokenHash {
 public:
  TokenHash() = default;
  TokenHash(uint64_t low, uint64_t high) : low_(low), high_(high) {}  // from a checkpoint

  void add_row(uint64_t position, std::span<const int32_t> ids);  // T + 1 ids
  void add(const TokenHash& other);                               // the rows of `other`

  uint64_t low() const { return low_; }
  uint64_t high() const { return high_; }
  std::string hex() const;  // 32 digits
  bool operator==(const TokenHash&) const = default;

 private:
  uint64_t low_ = 0;
  uint64_t high_ = 0;
};

}  // namespace t6::data
