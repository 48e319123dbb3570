// Errors of many ranks: all come out of a piece of work alike, and one of them says why.
#pragma once

#include <functional>

#include "base/error.h"
#include "dist/communicator.h"

namespace t6::dist {

// An error that all ranks have, thrown on rank 0; the others throw SaidElsewhere with the same code.
class AgreedError : public Error {
 public:
  using Error::Error;
};

// Does `work`, in which ranks need not meet, on every rank. Where it throws on one of them, all throw the error of the
// first that did, with its rank in front unless it is rank 0.
void agree(Communicator& communicator, const std::function<void()>& work);

// `text` is the same on all ranks. Where one has another than rank 0 all throw an error of `code`, which names the
// first that does: "rank 3 has other <what> than rank 0: <its text> and not <rank 0's>; <hint>".
void require_alike(Communicator& communicator, ExitCode code, std::string_view what, std::string_view text,
                   std::string_view hint);

// Does `work` that ends alike on all ranks: with the same result, or the same Error. Error(peer), an operation between
// ranks that failed because one is gone, is no such end and passes as it is: the control channel says who went.
template <class Work>
auto alike(const Communicator& communicator, Work&& work) {
  try {
    return work();
  } catch (const Error& error) {
    const bool is_said = dynamic_cast<const SaidElsewhere*>(&error) != nullptr;
    if (communicator.world() == 1 || is_said || error.code() == ExitCode::peer) throw;
    if (communicator.is_root()) throw AgreedError(error.code(), error.what());
    throw SaidElsewhere(error.code(), error.what());
  }
}

}  // namespace t6::dist
