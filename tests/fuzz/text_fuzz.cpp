// Text of any bytes: the pre-tokenizer against PCRE2, the encoders against each other.
#include <unordered_map>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/utf8.h"
#include "data/bpe_merge.h"
#include "data/bpe_trainer.h"
#include "data/encoder.h"
#include "data/pretokenizer.h"
#include "fuzz/fuzz_target.h"

namespace t6::fuzz {
namespace {

using data::CharClass;

// A pattern of PCRE2, for valid UTF-8.
class Pattern {
 public:
  explicit Pattern(const char* pattern) {
    int error = 0;
    size_t offset = 0;
    code_ = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED,
                          PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error, &offset, nullptr);
    require(code_ != nullptr, "PCRE2 refuses {}", pattern);
    pcre2_jit_compile(code_, PCRE2_JIT_COMPLETE);
    match_ = pcre2_match_data_create_from_pattern(code_, nullptr);
  }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;
  ~Pattern() {
    pcre2_match_data_free(match_);
    pcre2_code_free(code_);
  }
  // End of the match that begins at or behind `at`, or 0.
  size_t end_from(std::string_view text, size_t at) const {
    const int found = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), at, PCRE2_NO_UTF_CHECK,
                                  match_, nullptr);
    return found < 0 ? 0 : pcre2_get_ovector_pointer(match_)[1];
  }

 private:
  pcre2_code* code_;
  pcre2_match_data* match_;
};

// Whether PCRE2, of an older Unicode, gives the character our class.
bool known(uint32_t code_point, std::string_view character) {
  static const Pattern letter(R"(\p{L})"), number(R"(\p{N})"), space(R"(\s)");
  static std::unordered_map<uint32_t, bool> met;
  const auto [entry, fresh] = met.try_emplace(code_point, false);
  if (fresh) {
    const CharClass theirs = letter.end_from(character, 0) > 0   ? CharClass::letter
                             : number.end_from(character, 0) > 0 ? CharClass::number
                             : space.end_from(character, 0) > 0  ? CharClass::space
                                                                 : CharClass::other;
    entry->second = theirs == data::char_class(code_point);
  }
  return entry->second;
}

void run_pretokenizer(std::string_view input) {
  // What the pattern sees: U+FFFD for each byte that belongs to no character; ends[i] is where its i-th byte lies in
  // ours.
  std::string seen;
  std::vector<size_t> ends{0};
  bool comparable = true;
  for (size_t at = 0; at < input.size();) {
    const utf8::Char c = utf8::first(input.substr(at));
    const std::string_view character = c.bytes > 0 ? input.substr(at, static_cast<size_t>(c.bytes)) : "\xEF\xBF\xBD";
    if (c.bytes > 0 && c.code_point >= 0x80) comparable = comparable && known(c.code_point, character);
    at += c.bytes > 0 ? character.size() : 1;
    seen += character;
    ends.resize(seen.size() + 1, at);
  }
  static const Pattern pattern(R"('(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s)");
  size_t ours = 0, theirs = 0;
  data::for_each_piece(input, [&](std::string_view piece) {
    require(!piece.empty() && piece.data() == input.data() + ours, "a piece of {} bytes at {}", piece.size(), ours);
    ours += piece.size();
    if (!comparable) return;
    theirs = pattern.end_from(seen, theirs);
    require(ends[theirs] == ours, "a piece ends at {}, PCRE2's at {}", ours, ends[theirs]);
  });
  require(ours == input.size(), "pieces of {} bytes for {}", ours, input.size());
}

const data::Tokenizer& small_tokenizer() {
  static const data::Tokenizer tokenizer = [] {
    data::BpeTrainer trainer;
    trainer.add(
        "the then there this that these thaw hat heat aa aaa aaaa aaaaa  \n\n\n it's we'll they've naïve 12 123 1234 "
        "the then there this that these thaw hat heat aa aaa aaaa aaaaa it's we'll they've na\xc3\xafve 12 123 1234");
    return trainer.train({.vocab_size = 300, .min_pair_count = 2, .progress = {}});
  }();
  return tokenizer;
}

void run_encoder(std::string_view input) {
  const data::Tokenizer& tokenizer = small_tokenizer();
  static data::Encoder encoder(tokenizer);  // its cache of words lives on, as in a corpus
  for (const std::string_view document : pieces_of(input, 1)) {
    const std::vector<uint32_t> plain = tokenizer.encode(document);
    require(tokenizer.decode(plain) == document, "decode(encode(text)) is another text");
    std::vector<uint32_t> cached;
    encoder.encode(document, cached);
    require(cached == plain, "the encoder with a cache gives other ids");
    if (document.empty()) continue;
    std::vector<uint32_t> scanned, heaped;
    data::merge_by_scan(tokenizer, document, scanned);
    data::merge_by_heap(tokenizer, document, heaped);
    require(scanned == heaped, "the two ways of merging give other ids");
  }
}

std::vector<std::string> text_seeds() {
  return {"I've 2nd  it's 'tis\n\n x\t\ty  ",
          "\u00A0\u00A0a",
          "na\xc3\xafve\xc2\xbdx, \xd9\xa1\xd9\xa2",
          "\xff\xfe\xf0\x9f\x98\x80\xed\xa0\x80",
          "'ll'LL'l''s",
          " \r\n\v\f\x85\xe2\x80\xa8  .",
          "aaaa aaaa aaaaaaaaaaaaaaaaaaaaaaaa\x1e"
          "aaaa",
          "the then there \xe6\x97\xa5\xe6\x9c\xac"};
}

Registered pretokenizer_target({"pretokenizer", "text, against PCRE2", &run_pretokenizer, &text_seeds, 512});
Registered encoder_target({"encoder", "text, into ids", &run_encoder, &text_seeds, 512});

}  // namespace
}  // namespace t6::fuzz
