// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
//
// A number is a pure function of (seed, purpose, step, index): no hidden state, so resume, thread count and world size
// cannot change a draw.
#pragma once

#include <array>
#include <cstdint>

namespace t6 {

// What a stream of numbers is for; streams of different purposes never overlap.
enum class RngPurpose : uint32_t { init = 1, shuffle = 2, window = 3, sample = 4, test = 5 };

class Philox {
 public:
  Philox(uint64_t seed, RngPurpose purpose, uint64_t step = 0)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        purpose_(static_cast<uint32_t>(purpose)),
        step_(static_cast<uint32_t>(step)) {}

  // Four independent 32-bit words for `index`.
  std::array<uint32_t, 4> words(uint64_t index) const {
    std::array<uint32_t, 4> counter{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), step_, purpose_};
    uint32_t k0 = key_[0], k1 = key_[1];
    for (int round = 0; round < 10; ++round) {
      const uint64_t p0 = uint64_t{0xD2511F53} * counter[0];
      const uint64_t p1 = uint64_t{0xCD9E8D57} * counter[2];
      counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(p1),
                 static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(p0)};
      k0 += 0x9E3779B9;
      k1 += 0xBB67AE85;
    }
    return counter;
  }

  uint64_t bits(uint64_t index) const {
    const auto w = words(index);
    return (uint64_t{w[1]} << 32) | w[0];
  }

  // Uniform in [0, 1) with 53 bits.
  double uniform(uint64_t index) const { return static_cast<double>(bits(index) >> 11) * 0x1.0p-53; }

  // Uniform in [0, bound), bound > 0; the bias of the 64-bit multiply-shift is below bound / 2^64.
  uint64_t below(uint64_t index, uint64_t bound) const {
    return static_cast<uint64_t>((static_cast<Wide>(bits(index)) * bound) >> 64);
  }

 private:
  __extension__ typedef unsigned __int128 Wide;  // a typedef: nvcc refuses __extension__ before using
  std::array<uint32_t, 2> key_;
  uint32_t purpose_;
  uint32_t step_;
};

}  // namespace t6
