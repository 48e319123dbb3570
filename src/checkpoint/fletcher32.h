// Fletcher's checksum over 16-bit words, as HDF5's filter of that name keeps it behind every chunk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace t6::checkpoint {

// Both sums modulo 65535 of the bytes taken in pairs as big-endian words (a last byte alone is the high half of one),
// the second in the upper half. Never 0 in a half that any word went into. HDF5 stores it little-endian.
uint32_t fletcher32(std::span<const std::byte> bytes);

}  // namespace t6::checkpoint
