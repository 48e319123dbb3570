#include "checkpoint/fletcher32.h"

#include <algorithm>
#include <cstring>

namespace t6::checkpoint {
namespace {

// Words summed before reducing: with n words, second <= n * first + 65535 n (n + 1) / 2 has to fit 32 bits.
constexpr size_t kBlock = 256;

// x modulo 65535, but 65535 for multiples of it other than 0, as in the reference.
uint32_t fold(uint32_t x) {
  return (x & 0xFFFF) + (x >> 16);
}

}  // namespace

// Over a block of n words w_i:  second += n first + sum (n - i) w_i;  first += sum w_i.
uint32_t fletcher32(std::span<const std::byte> bytes) {
  uint32_t first = 0, second = 0;
  const std::byte* at = bytes.data();
  for (size_t words = bytes.size() / 2; words > 0;) {
    const size_t n = std::min(words, kBlock);
    uint32_t sum = 0, weighted = 0;
    for (size_t i = 0; i < n; ++i) {
      uint16_t word;
      std::memcpy(&word, at + 2 * i, 2);
      word = static_cast<uint16_t>(word << 8 | word >> 8);
      sum += word;
      weighted += static_cast<uint32_t>(n - i) * word;
    }
    second = fold(second + static_cast<uint32_t>(n) * first + weighted);
    first = fold(first + sum);
    at += 2 * n;
    words -= n;
  }
  if (bytes.size() % 2 != 0) {
    first = fold(first + (std::to_integer<uint32_t>(*at) << 8));
    second = fold(second + first);
  }
  return fold(fold(second)) << 16 | fold(fold(first));
}

}  // namespace t6::checkpoint
