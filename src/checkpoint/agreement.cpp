#include "checkpoint/agreement.h"

#include <charconv>
#include <new>
#include <system_error>

namespace t6::checkpoint {
namespace {

// "<kind> <code>\n<text>"
std::string to_text(const Outcome& outcome) {
  return fmt::format("{} {}\n{}", static_cast<int>(outcome.kind), static_cast<int>(outcome.code), outcome.text);
}

Outcome parse_outcome(const std::string& text) {
  int kind = -1, code = -1;
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, kind);
  const bool spaced = first.ec == std::errc() && first.ptr != end && *first.ptr == ' ';
  const auto second = spaced ? std::from_chars(first.ptr + 1, end, code) : first;
  T6_CHECK(spaced && kind >= 0 && kind <= 2 && second.ec == std::errc() && second.ptr != end && *second.ptr == '\n',
           "[checkpoint] another rank told something else than an outcome: \"{}\"", text.substr(0, 80));
  return {static_cast<Outcome::Kind>(kind), static_cast<ExitCode>(code), std::string(second.ptr + 1, end)};
}

}  // namespace

Outcome current_failure() {
  try {
    throw;
  } catch (const Damage& damage) {
    return {Outcome::Kind::damage, ExitCode::checkpoint, damage.reason};
  } catch (const Error& error) {
    return {Outcome::Kind::error, error.code(), error.what()};
  } catch (const std::bad_alloc&) {
    return {Outcome::Kind::error, ExitCode::io, "out of memory"};
  } catch (const std::system_error& error) {  // no more threads, say
    return {Outcome::Kind::error, ExitCode::io, error.what()};
  } catch (const std::exception& error) {
    return {Outcome::Kind::error, ExitCode::internal, error.what()};
  }
}

std::vector<std::string> gather(const Peers& peers, std::string_view text) {
  if (peers.world == 1) return {std::string(text)};
  T6_CHECK(peers.rank >= 0 && peers.rank < peers.world && peers.all_gather,
           "[checkpoint] expected a rank below {} that can tell the others", peers.world);
  std::vector<std::string> texts = peers.all_gather(text);
  T6_CHECK(texts.size() == static_cast<size_t>(peers.world), "[checkpoint] expected the texts of {} ranks, got {}",
           peers.world, texts.size());
  return texts;
}

std::vector<Outcome> share(const Peers& peers, const Outcome& mine) {
  if (peers.world == 1) return {mine};
  std::vector<Outcome> outcomes;
  for (const std::string& text : gather(peers, to_text(mine))) outcomes.push_back(parse_outcome(text));
  return outcomes;
}

void rethrow(const Outcome& outcome) {
  if (outcome.kind == Outcome::Kind::damage) throw Damage{outcome.text};
  throw Error(outcome.code, outcome.text);
}

Outcome first_failure(const std::vector<Outcome>& outcomes) {
  size_t failed = 0, first = 0;
  for (size_t rank = outcomes.size(); rank-- > 0;) {
    if (!outcomes[rank].failed()) continue;
    ++failed;
    first = rank;
  }
  if (failed == 0) return {};
  Outcome failure = outcomes[first];
  if (outcomes.size() > 1) {
    const std::string others = failed == 1 ? "" : fmt::format(" (and {} more)", failed - 1);
    failure.text = fmt::format("rank {}{}: {}", first, others, failure.text);
  }
  return failure;
}

std::vector<Outcome> agree(const Peers& peers, const Outcome& mine) {
  std::vector<Outcome> outcomes = share(peers, mine);
  if (const Outcome failure = first_failure(outcomes); failure.failed()) rethrow(failure);
  return outcomes;
}

}  // namespace t6::checkpoint
