// Foreign text in messages and on terminals: nothing in it moves the cursor, hides, or turns around what stands beside
// it.
#pragma once

#include <string>
#include <string_view>

namespace t6 {

// At most about `most` bytes of `text`, whole characters, with "..." behind it when there are more. Control characters
// and bytes that are no UTF-8 stand as \x1b; characters without a width and those that set the direction of text
// (Unicode's default-ignorable ones, line separators) as \u202e.
std::string printable(std::string_view text, size_t most = 60);

}  // namespace t6
