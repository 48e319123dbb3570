// Text that comes in pieces cut anywhere, as valid UTF-8.
#pragma once

#include <string>
#include <string_view>

namespace t6::cli {

class Utf8Stream {
 public:
  // visible: control characters other than newline and tab become U+FFFD too, so that text cannot steer a terminal.
  explicit Utf8Stream(bool visible) : visible_(visible) {}

  // The characters that are complete now. Bytes that belong to none become U+FFFD.
  std::string add(std::string_view bytes);
  // What is left at the end: U+FFFD for a character that never came to its end, or nothing.
  std::string finish();

 private:
  bool visible_;
  std::string pending_;  // the start of a character
};

}  // namespace t6::cli
