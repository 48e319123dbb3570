// Made-up English-like prose for benches without a text at hand: words by Zipf's law, sentences, paragraphs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace t6::cli {

// About `bytes` of it; a function of both arguments alone.
std::string make_prose(size_t bytes, uint64_t seed);

}  // namespace t6::cli
