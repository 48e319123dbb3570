#include "base/printable.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/utf8.h"

namespace t6 {
namespace {

struct Range {
  uint32_t first, last;
};
// C1 controls, line and paragraph separators, interlinear annotations, and Default_Ignorable_Code_Point of Unicode 15
// (DerivedCoreProperties.txt).
constexpr std::array<Range, 18> kHidden{{{0x80, 0x9F},
                                         {0xAD, 0xAD},
                                         {0x34F, 0x34F},
                                         {0x61C, 0x61C},
                                         {0x115F, 0x1160},
                                         {0x17B4, 0x17B5},
                                         {0x180B, 0x180F},
                                         {0x200B, 0x200F},
                                         {0x2028, 0x202E},
                                         {0x2060, 0x206F},
                                         {0x3164, 0x3164},
                                         {0xFE00, 0xFE0F},
                                         {0xFEFF, 0xFEFF},
                                         {0xFFA0, 0xFFA0},
                                         {0xFFF0, 0xFFFB},
                                         {0x1BCA0, 0x1BCA3},
                                         {0x1D173, 0x1D17A},
                                         {0xE0000, 0xE0FFF}}};

bool is_hidden(uint32_t c) {
  return std::any_of(kHidden.begin(), kHidden.end(), [c](Range range) { return c >= range.first && c <= range.last; });
}

}  // namespace

std::string printable(std::string_view text, size_t most) {
  std::string out;
  std::string_view rest = text;
  while (!rest.empty() && text.size() - rest.size() < most) {
    const utf8::Char c = utf8::first(rest);
    const auto bytes = static_cast<size_t>(std::max(1, c.bytes));
    if (c.bytes < 1 || c.code_point < 0x20 || c.code_point == 0x7F) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(rest[0]));
    } else if (is_hidden(c.code_point)) {
      out += fmt::format("\\u{:04x}", c.code_point);
    } else {
      out += rest.substr(0, bytes);
    }
    rest.remove_prefix(bytes);
  }
  return rest.empty() ? out : out + "...";
}

}  // namespace t6
