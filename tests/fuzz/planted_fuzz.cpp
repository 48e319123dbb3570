// A reader that is broken on purpose: scripts/fuzz.sh --self-test must find it.
#include <algorithm>
#include <memory>

#include "fuzz/fuzz_target.h"

namespace t6::fuzz {
namespace {

// "T6", a length, and that many bytes; the length is believed.
void run_planted(std::string_view input) {
  if (input.size() < 4 || input[0] != 'T' || input[1] != '6') return;
  const auto length = static_cast<size_t>(static_cast<uint8_t>(input[2]));
  const std::unique_ptr<char[]> copy(new char[input.size()]);
  std::copy_n(input.begin(), input.size(), copy.get());
  volatile char sum = 0;
  for (size_t i = 0; i < length; ++i) sum = static_cast<char>(sum + copy[3 + i]);
}

std::vector<std::string> planted_seeds() {
  return {"T"};
}

Registered planted_target({"planted", "nothing real: a bug for the self-test", &run_planted, &planted_seeds, 64, false,
                           true});

}  // namespace
}  // namespace t6::fuzz
