// The ranks of a run, connected: who they are, how they compute together, who watches over them, and what all must
// agree on before they begin.
#pragma once

#include <functional>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "base/error.h"
#include "dist/agree.h"
#include "dist/communicator.h"
#include "dist/control.h"
#include "dist/discover.h"
#include "tensor/device.h"

namespace t6::dist {

// automatic: on GPUs NCCL, or MPI through host memory where a rank has no NCCL; on CPUs MPI.
enum class Transport : uint8_t { automatic, mpi, nccl };

struct ConnectOptions {
  Transport transport = Transport::automatic;
  bool repeatable = false;  // sums in the same order each time: NCCL leaves switches out
  double timeout = 60;      // seconds until ranks that do not come are given up
  ControlOptions control;
};

// What a rank brings to the others.
struct Beginning {
  Device device = kCpu;
  ConnectOptions options;
};

class Connection {
 public:
  Connection() = default;
  Connection(Connection&&) = default;

  const Ranks& ranks() const { return ranks_; }
  Communicator& communicator() { return *communicator_; }
  Control& control() { return *control_; }

  // Agreement, before the first step. All ranks call these alike, and all get the same outcome: where ranks differ, the
  // run ends by fail_together().

  // `text` is the same on all ranks. The message names the first rank that differs from rank 0 and its first other
  // line: "rank 3 on node1 has another <what> than rank 0: <its line> and not <rank 0's line>; <hint>".
  void require_same(std::string_view what, std::string_view text, std::string_view hint);
  // No two ranks use one GPU; `gpu` is its name that no other one in the world has ("" on a CPU: no question).
  void require_distinct_gpus(std::string_view gpu);
  // No rank has anything against beginning; one that does says what in `problem`. Rank 0 says the first, and all end
  // with its code. `said`: rank 0 has said its own already.
  void require_no_problem(std::string_view problem, ExitCode code = ExitCode::usage, bool said = false);

  // Ends the run by an error that all ranks know alike: rank 0 says it, and all throw SaidElsewhere. A single rank
  // throws it as Error, to be said by main.
  [[noreturn]] void fail_together(ExitCode code, const std::string& text);

  // Runs the work of this rank to its end and parts from the others. An exception of this rank alone is said with rank,
  // host and step, and ends all with its code. Errors of fail_together() and of agree.h are those of all ranks.
  template <class Work>
  auto run(Work&& work);

 private:
  friend Connection connect(const Found& found, const std::function<Beginning()>& prepare);
  void meet_others(const Found& found, const Beginning& beginning);
  void connect_all(const Found& found, const Beginning& beginning);
  void part();
  [[noreturn]] void leave_together(ExitCode code, const std::string& text);
  void connect_gpus(Device device, const ConnectOptions& options);
  // True when it is said, by this rank or rank 0.
  bool say(ExitCode code, const char* what) noexcept;

  Ranks ranks_;
  std::unique_ptr<Communicator> starter_;  // MPI, where the ranks met by it and compute by another
  std::unique_ptr<Communicator> communicator_;
  std::unique_ptr<Control> control_;  // goes first: its hook calls the communicator
  bool parted_ = false;
};

// Connects the ranks that discover() found. `prepare` judges what this rank was given and chooses its device; its
// exception keeps the rank from no meeting: rank 0 says the first one (its own at once, before others came), and all
// end with its code. All end alike, too, where the devices differ, and when the ranks cannot compute together: ranks on
// CPUs without MPI, GPUs with neither NCCL nor MPI, two ranks on one GPU (but for Transport::mpi). See meet() for ranks
// that do not come.
Connection connect(const Found& found, const std::function<Beginning()>& prepare);
Connection connect(const Found& found, Device device, const ConnectOptions& options = {});

// Which of the `visible` GPUs of this process the rank takes: the only one, or the one of its local rank. Error(usage)
// when there are fewer.
int choose_gpu(const Ranks& ranks, int visible);

template <class Work>
auto Connection::run(Work&& work) {
  try {
    if constexpr (std::is_void_v<decltype(work())>) {
      work();
      part();
    } else {
      auto result = work();
      part();
      return result;
    }
  } catch (const AgreedError& error) {
    fail_together(error.code(), error.what());
  } catch (const SaidElsewhere&) {
    part();
    throw;
  } catch (const Error& error) {
    if (say(error.code(), error.what())) throw SaidElsewhere(error.code(), error.what());
    throw;
  } catch (const std::bad_alloc&) {
    if (say(ExitCode::io, "out of memory")) throw SaidElsewhere(ExitCode::io, "out of memory");
    throw;
  } catch (const std::exception& error) {
    if (say(ExitCode::internal, error.what())) throw SaidElsewhere(ExitCode::internal, error.what());
    throw;
  }
}

}  // namespace t6::dist
