#include "data/token_hash.h"

#include <fmt/format.h>
#include <xxhash.h>

namespace t6::data {

void TokenHash::add_row(uint64_t position, std::span<const int32_t> ids) {
  const XXH128_hash_t hash = XXH3_128bits_withSeed(ids.data(), ids.size_bytes(), position);
  add(TokenHash(hash.low64, hash.high64));
}

void TokenHash::add(const TokenHash& other) {
  low_ += other.low_;
  high_ += other.high_ + (low_ < other.low_ ? 1 : 0);
}

std::string TokenHash::hex() const {
  return fmt::format("{:016x}{:016x}", high_, low_);
}

}  // namespace t6::data
