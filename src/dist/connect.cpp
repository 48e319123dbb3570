#include "dist/connect.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <map>
#include <random>
#include <thread>

#include "base/log.h"
#include "base/printable.h"
#include "dist/mpi.h"
#include "dist/nccl.h"
#include "tensor/gpu_identity.h"

namespace t6::dist {
namespace {

std::string random_nonce() {
  std::random_device device;  // the system's
  std::string nonce;
  for (int i = 0; i < 4; ++i) nonce += fmt::format("{:08x}", static_cast<uint32_t>(device()));
  return nonce;
}

// The numbers that other hosts may reach this one by.
std::vector<std::string> own_numbers() {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> all(first, &::freeifaddrs);
  std::vector<std::string> v4, v6;
  for (const ifaddrs* at = first; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || (at->ifa_flags & IFF_LOOPBACK) != 0 || (at->ifa_flags & IFF_UP) == 0) continue;
    const int family = at->ifa_addr->sa_family;
    if (family != AF_INET && family != AF_INET6) continue;
    std::array<char, NI_MAXHOST> text{};
    const socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (::getnameinfo(at->ifa_addr, size, text.data(), text.size(), nullptr, 0, NI_NUMERICHOST) != 0) continue;
    if (std::string_view(text.data()).starts_with("fe80")) continue;  // of one cable alone
    (family == AF_INET ? v4 : v6).emplace_back(text.data());
  }
  v4.insert(v4.end(), v6.begin(), v6.end());
  return v4;
}

// Rank 0's address and this run's nonce, told by MPI; `listener` becomes rank 0's.
Meeting meet_by_mpi(Communicator& mpi, const ConnectOptions& options, Socket& listener) {
  Meeting meeting;
  meeting.ranks = mpi.ranks();
  meeting.timeout = options.timeout;
  meeting.address_from = "MPI";
  const std::string host = host_name() + " " + process_space();
  const std::vector<std::string> hosts = mpi.all_gather_text(host);
  const bool one_host = std::all_of(hosts.begin(), hosts.end(), [&](const std::string& each) { return each == host; });
  std::string told;
  if (mpi.is_root()) {
    listener = listen_at({one_host ? "127.0.0.1" : "", 0});
    Writer body;
    body.number(listener.port()).text(random_nonce());
    const std::vector<std::string> numbers = own_numbers();
    body.text(one_host ? "127.0.0.1" : host_name()).number(one_host ? 0 : static_cast<int64_t>(numbers.size()));
    if (!one_host) {
      for (const std::string& number : numbers) body.text(number);
    }
    told = body.take();
  }
  const std::string first = mpi.all_gather_text(told)[0];
  Reader body(first);
  meeting.address.port = static_cast<int>(body.number());
  meeting.nonce = body.text();
  meeting.address.host = body.text();
  for (int64_t left = body.number(); left > 0 && body.good(); --left) meeting.other_hosts.push_back(body.text());
  T6_CHECK(body.done(), "[connect] rank 0 told no address");
  return meeting;
}

// What this rank has against beginning.
struct Problem {
  ExitCode code = ExitCode::usage;
  std::string text;  // empty: nothing
};

Problem problem_of(const std::function<void()>& work) {
  const auto problem = [](ExitCode code, const char* what) {
    return Problem{code, *what == '\0' ? "an error without a word" : what};
  };
  try {
    work();
  } catch (const Error& error) {
    return problem(error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return problem(ExitCode::io, "out of memory");
  } catch (const std::exception& error) {
    return problem(ExitCode::internal, error.what());
  }
  return {};
}

// Takes the first line off a text, which may be at its end.
std::string_view take_line(std::string_view& text) {
  const std::string_view line = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(line.size() + 1, text.size()));
  return line;
}

// The first line that two texts do not share; empty where one of them has no more.
std::pair<std::string_view, std::string_view> first_difference(std::string_view a, std::string_view b) {
  while (!a.empty() || !b.empty()) {
    const std::string_view line_a = take_line(a), line_b = take_line(b);
    if (line_a != line_b) return {line_a, line_b};
  }
  return {};
}

std::string quote(std::string_view line) {
  const size_t begin = line.find_first_not_of(' ');
  return begin == std::string_view::npos ? "nothing" : fmt::format("\"{}\"", printable(line.substr(begin), 200));
}

}  // namespace

void Connection::require_same(std::string_view what, std::string_view text, std::string_view hint) {
  const std::vector<std::string> texts = control_->all_gather_text(text);
  for (size_t rank = 1; rank < texts.size(); ++rank) {
    if (texts[rank] == texts[0]) continue;
    const auto [theirs, ours] = first_difference(texts[rank], texts[0]);
    fail_together(ExitCode::usage, fmt::format("{} has another {} than rank 0 on {}: {} and not {}; {}",
                                               name_rank(static_cast<int>(rank), control_->seats()[rank]), what,
                                               control_->seats()[0].host, quote(theirs), quote(ours), hint));
  }
}

void Connection::require_distinct_gpus(std::string_view gpu) {
  const std::vector<std::string> gpus = control_->all_gather_text(gpu);
  std::map<std::string, size_t> owners;
  for (size_t rank = 0; rank < gpus.size(); ++rank) {
    if (gpus[rank].empty()) continue;
    const auto [owner, is_new] = owners.emplace(gpus[rank], rank);
    if (is_new) continue;
    fail_together(
        ExitCode::usage,
        fmt::format("ranks {} and {} on {} use the same GPU ({}): give each rank of a host a local rank of its "
                    "own (LOCAL_RANK or --local-rank) or a GPU of its own (CUDA_VISIBLE_DEVICES), and start no "
                    "more ranks than there are GPUs",
                    owner->second, rank, control_->seats()[rank].host, gpus[rank]));
  }
}

void Connection::require_no_problem(std::string_view problem, ExitCode code, bool said) {
  const std::string mine = Writer().number(static_cast<int>(code)).text(problem.substr(0, 32768)).take();
  const std::vector<std::string> problems = control_->all_gather_text(mine);
  for (size_t rank = 0; rank < problems.size(); ++rank) {
    Reader body(problems[rank]);
    const auto its_code = static_cast<ExitCode>(body.number());
    const std::string text = body.text();
    if (text.empty()) continue;
    if (rank == 0 && said) leave_together(its_code, text);
    const std::string who = rank == 0 ? "" : name_rank(static_cast<int>(rank), control_->seats()[rank]) + ": ";
    fail_together(its_code, who + text);
  }
}

void Connection::part() {
  if (std::exchange(parted_, true)) return;
  control_->goodbye();
}

void Connection::fail_together(ExitCode code, const std::string& text) {
  // Before any rank may leave: a launcher ends all others when the first does.
  if (ranks_.rank == 0 && ranks_.world > 1) Control::say(text);
  leave_together(code, text);
}

void Connection::leave_together(ExitCode code, const std::string& text) {
  part();
  if (ranks_.world == 1) throw Error(code, text);
  throw SaidElsewhere(code, text);
}

bool Connection::say(ExitCode code, const char* what) noexcept {
  if (parted_ || ranks_.world == 1) return false;
  if (code == ExitCode::peer) {
    // An operation failed because another rank is gone: the control channel knows which, and ends this process with it.
    std::this_thread::sleep_for(std::chrono::seconds(2));
  }
  return control_->say_why(code, what);
}

void Connection::connect_gpus(Device device, const ConnectOptions& options) {
  require_distinct_gpus(gpu::identity(device.index));
  std::string trouble;
  try {
    if (!has_nccl()) trouble = "this build of t6 is without NCCL";
    if (trouble.empty()) nccl_version();
  } catch (const Error& error) {
    trouble = error.what();
  }
  const std::vector<std::string> troubles = control_->all_gather_text(trouble);
  const auto first = std::find_if(troubles.begin(), troubles.end(), [](const std::string& t) { return !t.empty(); });
  if (first != troubles.end()) {
    const auto rank = static_cast<int>(first - troubles.begin());
    const std::string who = name_rank(rank, control_->seats()[static_cast<size_t>(rank)]);
    if (starter_ == nullptr || options.transport == Transport::nccl) {
      fail_together(ExitCode::usage,
                    fmt::format("{} cannot use NCCL: {}. Without it GPUs talk through host memory by MPI: "
                                "start the ranks by mpirun or srun --mpi=pmix",
                                who, *first));
    }
    if (ranks_.rank == 0)
      log::warn("{} cannot use NCCL ({}): GPUs talk through host memory by MPI, slowly", who, *first);
    communicator_ = std::move(starter_);
    return;
  }
  // NCCL's id, and texts later on, by MPI where the ranks met by it.
  std::function<std::vector<std::string>(std::string_view)> exchange;
  if (starter_ != nullptr) {
    exchange = [mpi = starter_.get()](std::string_view text) { return mpi->all_gather_text(text); };
  } else {
    exchange = [control = control_.get()](std::string_view text) { return control->all_gather_text(text); };
  }
  try {
    communicator_ = nccl(ranks_, device, std::move(exchange), options.repeatable);
  } catch (const Error& error) {
    if (error.code() == ExitCode::usage) fail_together(ExitCode::usage, error.what());  // it is on all ranks
    throw;
  }
}

int choose_gpu(const Ranks& ranks, int visible) {
  if (visible == 1 || ranks.world == 1) return 0;  // of its own, or there are too many ranks: require_distinct_gpus()
  if (ranks.local_rank < visible) return ranks.local_rank;
  fail(
      ExitCode::usage,
      "as local rank {}, counted from 0, it has no GPU of its own: {} can be used on {}; start at most {} ranks a host",
      ranks.local_rank, visible, host_name(), visible);
}

// How ranks find each other does not depend on what they compute on, so that those who disagree on it meet, too.
void Connection::meet_others(const Found& found, const Beginning& beginning) {
  Meeting meeting{.ranks = ranks_,
                  .address = found.address,
                  .address_from = found.address_from,
                  .nonce = found.nonce,
                  .timeout = beginning.options.timeout};
  Socket listener;
  if (has_mpi() && found.mpi) {
    // Where NCCL is missing it is what the GPUs talk by.
    starter_ = mpi(ranks_, beginning.device);
    meeting = meet_by_mpi(*starter_, beginning.options, listener);
  } else if (found.address.host.empty()) {
    const char* text =
        "the ranks were started by MPI, which this build of t6 is without, and nothing says where rank 0 is: install "
        "libopenmpi-dev and build again, or set MASTER_ADDR and MASTER_PORT";
    if (ranks_.rank != 0) throw SaidElsewhere(ExitCode::usage, text);
    throw Error(ExitCode::usage, text);
  }
  control_ = std::make_unique<Control>(ranks_, meet(meeting, std::move(listener)), beginning.options.control);
  if (!found.local_world_guessed) return;
  const std::vector<Seat>& seats = control_->seats();
  const Seat& own = seats[static_cast<size_t>(ranks_.rank)];
  ranks_.local_world = static_cast<int>(std::count_if(
      seats.begin(), seats.end(), [&](const Seat& seat) { return seat.host == own.host && seat.space == own.space; }));
}

// All ranks are on the same kind of device.
void Connection::connect_all(const Found& found, const Beginning& beginning) {
  const Transport transport = beginning.options.transport;
  const bool by_mpi = beginning.device.is_cpu() || transport == Transport::mpi;
  if (!by_mpi) {
    connect_gpus(beginning.device, beginning.options);
    return;
  }
  if (transport == Transport::nccl) {
    fail_together(ExitCode::usage, "NCCL connects GPUs; these ranks compute on CPUs, which MPI connects");
  }
  if (!has_mpi()) {
    fail_together(ExitCode::usage,
                  fmt::format("{} ranks on CPUs talk by MPI, which this build of t6 is without: install libopenmpi-dev "
                              "and build again",
                              ranks_.world));
  }
  if (!found.mpi) {
    fail_together(ExitCode::usage,
                  fmt::format("{} ranks on CPUs talk by MPI, but these were started by {}, not by MPI: start them by "
                              "mpirun -n {}, srun --mpi=pmix, or t6 launch --by mpi --nproc {}",
                              ranks_.world, describe(found.launcher), ranks_.world, ranks_.world));
  }
  communicator_ = std::move(starter_);
}

Connection connect(const Found& found, Device device, const ConnectOptions& options) {
  return connect(found, [&] { return Beginning{device, options}; });
}

Connection connect(const Found& found, const std::function<Beginning()>& prepare) {
  Connection connection;
  connection.ranks_ = found.ranks;
  if (found.ranks.world == 1) {
    const Beginning beginning = prepare();
    connection.communicator_ = single();
    connection.control_ =
        std::make_unique<Control>(found.ranks, meet({.ranks = found.ranks}), beginning.options.control);
    return connection;
  }
  Beginning beginning;
  const Problem problem = problem_of([&] { beginning = prepare(); });
  const bool said = found.ranks.rank == 0 && !problem.text.empty();
  if (said) Control::say(problem.text);
  try {
    connection.meet_others(found, beginning);
  } catch (const SaidElsewhere&) {
    throw;
  } catch (const Error&) {
    if (said) throw SaidElsewhere(problem.code, problem.text);
    if (!problem.text.empty()) throw Error(problem.code, problem.text);
    throw;
  }
  connection.require_no_problem(problem.text, problem.code, said);
  connection.require_same("kind of device", beginning.device.is_cpu() ? "the CPU" : "a GPU",
                          "give all ranks the same run.device or --device, and where it is auto see that every host's "
                          "GPUs can be used (nvidia-smi)");
  connection.connect_all(found, beginning);
  connection.control_->watch_over([c = connection.communicator_.get()] { return c->failure(); },
                                  [c = connection.communicator_.get()] { c->abort(); });
  connection.communicator_->set_on_wait([c = connection.control_.get()](bool waits) { c->waits(waits); });
  return connection;
}

}  // namespace t6::dist
