#include "dist/agree.h"

#include <new>
#include <optional>

namespace t6::dist {
namespace {

// "6 text"; empty for no error.
std::string describe(const Error& error) {
  return fmt::format("{} {}", static_cast<int>(error.code()), error.what());
}

Error parse(const std::string& text) {
  const size_t space = text.find(' ');
  return Error(static_cast<ExitCode>(std::stoi(text.substr(0, space))), text.substr(space + 1));
}

}  // namespace

void agree(Communicator& communicator, const std::function<void()>& work) {
  if (communicator.world() == 1) {
    work();
    return;
  }
  std::string mine;
  try {
    work();
  } catch (const Error& error) {
    mine = describe(error);
  } catch (const std::bad_alloc& error) {
    mine = describe(Error(ExitCode::io, fmt::format("out of memory ({})", error.what())));
  } catch (const std::exception& error) {
    mine = describe(Error(ExitCode::internal, error.what()));
  }
  const std::vector<std::string> all = communicator.all_gather_text(mine);
  for (size_t rank = 0; rank < all.size(); ++rank) {
    if (all[rank].empty()) continue;
    const Error error = parse(all[rank]);
    const std::string text = rank == 0 ? error.what() : fmt::format("rank {}: {}", rank, error.what());
    if (communicator.is_root()) throw AgreedError(error.code(), text);
    throw SaidElsewhere(error.code(), text);
  }
}

void require_alike(Communicator& communicator, ExitCode code, std::string_view what, std::string_view text,
                   std::string_view hint) {
  if (communicator.world() == 1) return;
  const std::vector<std::string> texts = communicator.all_gather_text(text);
  for (size_t rank = 1; rank < texts.size(); ++rank) {
    if (texts[rank] == texts[0]) continue;
    alike(communicator, [&] {
      fail(code, "rank {} has other {} than rank 0: {} and not {}; {}", rank, what, texts[rank], texts[0], hint);
    });
  }
}

}  // namespace t6::dist
