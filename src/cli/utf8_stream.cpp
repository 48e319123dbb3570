#include "cli/utf8_stream.h"

#include "base/utf8.h"

namespace t6::cli {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

bool is_control(uint32_t code_point) {
  return (code_point < 0x20 && code_point != '\n' && code_point != '\t') || (code_point >= 0x7F && code_point < 0xA0);
}

}  // namespace

std::string Utf8Stream::add(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const utf8::Char c = utf8::first(rest);
    if (c.bytes == utf8::kCut) break;
    const bool shown = c.bytes > 0 && !(visible_ && is_control(c.code_point));
    const size_t taken = c.bytes > 0 ? static_cast<size_t>(c.bytes) : 1;
    out += shown ? rest.substr(0, taken) : kReplacement;
    rest.remove_prefix(taken);
  }
  pending_ = std::string(rest);
  return out;
}

std::string Utf8Stream::finish() {
  const bool cut = !pending_.empty();
  pending_.clear();
  return cut ? std::string(kReplacement) : std::string();
}

}  // namespace t6::cli
