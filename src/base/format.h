// Numbers for people: 959k, 31.2G, 13h42m. For screens and logs only; files hold exact numbers.
//
// All are short (three significant digits), never in scientific notation except learning rates, and put "nan" or "inf"
// where the number is that. Negative numbers keep their sign.
#pragma once

#include <cstdint>
#include <string>

namespace t6 {

// Decimal multiples: 7, 959, 1.23k, 12.3k, 959k, 1.23M, 4.56B, 1.23T. Whole numbers below 1000 have no decimals.
std::string format_count(double value);

// Tokens or parameters, said in billions from a tenth of one on: 820k, 99.1M, 0.59B, 12.3B, 1.23T.
std::string format_billions(double value);

// Memory, in multiples of 1024 as free and nvidia-smi count: 512, 1.00K, 31.2G. No unit is written after the prefix.
std::string format_memory(uint64_t bytes);

// Files and rates, in multiples of 1000: "512 B", "1.23 kB", "104 MB". Append "/s" for a rate.
std::string format_bytes(double bytes);

// 512 ms, 12.3s, 4m07s, 13h42m, 3d04h; "?" when not finite or negative.
std::string format_duration(double seconds);

// 6.0e-04, as learning rates are written.
std::string format_rate(double value);

// Thousands in groups: 1,234,567.
std::string format_grouped(uint64_t value);

}  // namespace t6
