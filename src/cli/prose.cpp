#include "cli/prose.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <vector>

#include "base/rng.h"

namespace t6::cli {
namespace {

// The most frequent words of English, in that order; rarer ones are put together from syllables.
constexpr std::array<std::string_view, 120> kWords{
    "the",    "of",     "and",   "to",    "a",       "in",      "that",  "he",    "was",   "it",     "his",    "is",
    "with",   "I",      "as",    "had",   "for",     "at",      "on",    "by",    "not",   "be",     "but",    "from",
    "him",    "they",   "all",   "which", "you",     "her",     "this",  "were",  "are",   "my",     "have",   "one",
    "or",     "so",     "an",    "we",    "me",      "she",     "their", "who",   "said",  "no",     "them",   "when",
    "there",  "been",   "would", "what",  "up",      "if",      "out",   "will",  "into",  "man",    "then",   "more",
    "now",    "some",   "time",  "could", "your",    "do",      "its",   "like",  "upon",  "our",    "very",   "than",
    "little", "other",  "about", "old",   "only",    "after",   "made",  "good",  "any",   "before", "such",   "know",
    "great",  "did",    "see",   "two",   "must",    "might",   "men",   "over",  "down",  "long",   "these",  "day",
    "never",  "should", "own",   "came",  "first",   "where",   "how",   "come",  "house", "back",   "much",   "way",
    "may",    "here",   "went",  "even",  "thought", "himself", "eyes",  "night", "hand",  "young",  "people", "again"};
constexpr std::array<std::string_view, 40> kSyllables{
    "con", "ter", "ing", "ment", "pre", "tion", "ar",  "el",  "mo",  "ra",  "ly",  "un", "de", "st",
    "per", "al",  "en",  "or",   "is",  "ous",  "gra", "ble", "car", "min", "ver", "so", "da", "li",
    "fo",  "no",  "to",  "com",  "re",  "ness", "pro", "tri", "ex",  "sur", "ed",  "er"};
constexpr size_t kVocabulary = 20000;

class Draws {
 public:
  explicit Draws(uint64_t seed) : philox_(seed, RngPurpose::sample) {}
  double uniform() { return philox_.uniform(next_++); }
  size_t below(size_t bound) { return philox_.below(next_++, bound); }

 private:
  Philox philox_;
  uint64_t next_ = 0;
};

std::vector<std::string> make_words(Draws& draws) {
  std::vector<std::string> words(kWords.begin(), kWords.end());
  while (words.size() < kVocabulary) {
    std::string word;
    for (size_t i = 2 + draws.below(3); i > 0; --i) word += kSyllables[draws.below(kSyllables.size())];
    words.push_back(std::move(word));
  }
  return words;
}

}  // namespace

std::string make_prose(size_t bytes, uint64_t seed) {
  Draws draws(seed);
  const std::vector<std::string> words = make_words(draws);
  std::string text;
  text.reserve(bytes + 256);
  while (text.size() < bytes) {
    for (size_t sentences = 3 + draws.below(6); sentences > 0; --sentences) {
      const size_t begin = text.size(), length = 5 + draws.below(20);
      for (size_t i = 0; i < length; ++i) {
        // Zipf: the logarithm of the rank is uniform.
        const auto rank = static_cast<size_t>(std::exp(draws.uniform() * std::log(static_cast<double>(kVocabulary))));
        if (i > 0) text += draws.below(12) == 0 ? ", " : " ";
        text += draws.below(200) == 0 ? std::to_string(1 + draws.below(1999)) : words[std::min(rank, kVocabulary) - 1];
      }
      if (text[begin] >= 'a') text[begin] = static_cast<char>(text[begin] - 'a' + 'A');
      text += draws.below(10) == 0 ? "? " : ". ";
    }
    text.back() = '\n';
    text += '\n';
  }
  return text;
}

}  // namespace t6::cli
