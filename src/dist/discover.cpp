#include "dist/discover.h"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace t6::dist {
namespace {

constexpr int64_t kMaxRanks = 1 << 20;
// Steps of srun count from 0; the numbers from here on are the batch script, salloc's shell and the like.
constexpr int64_t kFirstSpecialStep = 4294967290;

// The variables of one launcher, or its flags, by name.
class Source {
 public:
  explicit Source(const Lookup& lookup) : lookup_(lookup) {}

  std::optional<std::string> text(const char* name) const {
    const char* value = lookup_(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return value;
  }
  std::optional<int64_t> number(const char* name) const {
    const std::optional<std::string> value = text(name);
    if (!value) return std::nullopt;
    int64_t number = 0;
    const auto [end, error] = std::from_chars(value->data(), value->data() + value->size(), number);
    if (error != std::errc() || end != value->data() + value->size() || number < 0) {
      fail(ExitCode::usage, "expected a number from 0 in {}, got '{}'", name, *value);
    }
    return number;
  }

 private:
  const Lookup& lookup_;
};

// What one launcher says.
struct Said {
  Launcher launcher = Launcher::none;
  std::optional<int64_t> rank, world, local_rank, local_world;
  std::string rank_name, world_name, local_rank_name, local_world_name;

  bool speaks() const { return rank || world; }
  std::string pair() const { return fmt::format("{}={} and {}={}", rank_name, *rank, world_name, *world); }
};

void require_pair(const Said& said) {
  if (!said.rank || !said.world) {
    const bool has_rank = said.rank.has_value();
    fail(ExitCode::usage, "{} is {}, but {} is not given; give both, or neither for a run of one rank",
         has_rank ? said.rank_name : said.world_name, has_rank ? *said.rank : *said.world,
         has_rank ? said.world_name : said.rank_name);
  }
  if (*said.world < 1 || *said.world > kMaxRanks) {
    fail(ExitCode::usage, "expected from 1 to {} ranks in {}, got {}", kMaxRanks, said.world_name, *said.world);
  }
  if (*said.rank >= *said.world) {
    fail(ExitCode::usage, "{}: a run of {} rank{} has ranks 0 to {}", said.pair(), *said.world,
         *said.world == 1 ? "" : "s", *said.world - 1);
  }
  if (said.local_world && (*said.local_world < 1 || *said.local_world > *said.world)) {
    fail(ExitCode::usage, "{} is {}, but the run has {}={} ranks on all hosts together", said.local_world_name,
         *said.local_world, said.world_name, *said.world);
  }
  const int64_t most = said.local_world.value_or(*said.world);
  if (said.local_rank && *said.local_rank >= most) {
    fail(ExitCode::usage, "{} is {}, but {} ranks of this host have 0 to {}", said.local_rank_name, *said.local_rank,
         most, most - 1);
  }
}

Said from_flags(const RankFlags& flags) {
  Said said{Launcher::flags, flags.rank, flags.world,    flags.local_rank, flags.local_world,
            "--rank",        "--world",  "--local-rank", "--local-world"};
  if (!said.speaks()) {
    const char* alone = flags.local_rank        ? "--local-rank"
                        : flags.local_world     ? "--local-world"
                        : flags.address.empty() ? nullptr
                                                : "--address";
    if (alone != nullptr) fail(ExitCode::usage, "{} is given without --rank and --world", alone);
    return said;
  }
  require_pair(said);
  return said;
}

Said from_variables(const Source& source, Launcher launcher, const char* rank, const char* world,
                    const char* local_rank, const char* local_world) {
  Said said{launcher, source.number(rank), source.number(world), {}, {}, rank, world, local_rank, local_world};
  if (!said.speaks()) return said;
  said.local_rank = source.number(local_rank);
  said.local_world = source.number(local_world);
  require_pair(said);
  return said;
}

// Ranks of node `node` in "2(x3),1": 2, 2, 2, 1.
std::optional<int64_t> tasks_of_node(std::string_view list, int64_t node) {
  while (!list.empty()) {
    const size_t comma = list.find(',');
    std::string_view part = list.substr(0, comma);
    list = comma == std::string_view::npos ? std::string_view() : list.substr(comma + 1);
    int64_t tasks = 0, times = 1;
    const char* end = part.data() + part.size();
    auto [at, error] = std::from_chars(part.data(), end, tasks);
    if (error != std::errc()) return std::nullopt;
    if (end - at > 2 && at[0] == '(' && at[1] == 'x') std::from_chars(at + 2, end, times);
    if (node < times) return tasks;
    node -= times;
  }
  return std::nullopt;
}

bool in_step(const Source& source) {
  const std::optional<int64_t> step = source.number("SLURM_STEP_ID");
  return step && *step < kFirstSpecialStep && source.text("SLURM_PROCID") && source.text("SLURM_JOB_ID");
}

Said from_slurm(const Source& source) {
  if (!in_step(source)) return {};
  const char* world = source.text("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS";
  Said said{Launcher::slurm,
            source.number("SLURM_PROCID"),
            source.number(world),
            source.number("SLURM_LOCALID"),
            {},
            "SLURM_PROCID",
            world,
            "SLURM_LOCALID",
            "SLURM_STEP_TASKS_PER_NODE"};
  const std::optional<std::string> tasks = source.text("SLURM_STEP_TASKS_PER_NODE");
  const std::optional<int64_t> node = source.number("SLURM_NODEID");
  if (tasks && node) said.local_world = tasks_of_node(*tasks, *node);
  // What the allocation was asked for: a step may have fewer, or lie elsewhere.
  const std::optional<int64_t> asked = source.number("SLURM_NTASKS_PER_NODE");
  if (!said.local_world && asked && said.world && *asked <= *said.world && said.local_rank.value_or(0) < *asked) {
    said.local_world = asked;
  }
  require_pair(said);
  return said;
}

// The first host of "gpu[07-09,12],login": gpu07.
std::string first_host(const std::string& list) {
  const size_t bracket = list.find('['), comma = list.find(',');
  if (bracket == std::string::npos || comma < bracket) return list.substr(0, comma);
  const size_t end = list.find_first_of(",-]", bracket);
  if (end == std::string::npos) return "";
  const size_t close = list.find(']', bracket);
  const size_t suffix_end = list.find(',', close);
  return list.substr(0, bracket) + list.substr(bracket + 1, end - bracket - 1) +
         list.substr(close + 1, suffix_end == std::string::npos ? suffix_end : suffix_end - close - 1);
}

void take_address(const Source& source, const RankFlags& flags, Found& found) {
  if (const auto nonce = source.text(kNonceVariable)) found.nonce = *nonce;
  if (!flags.address.empty()) {
    found.address = parse_address(flags.address, "--address");
    found.address_from = "--address";
    return;
  }
  const auto host = source.text("MASTER_ADDR");
  const auto port = source.number("MASTER_PORT");
  if (host && port) {
    // torchrun's own agent listens at MASTER_PORT for as long as its workers run; the next port is this program's.
    const bool agent_has_it = source.text("TORCHELASTIC_USE_AGENT_STORE").value_or("") == "True";
    const int64_t used = *port + (agent_has_it ? 1 : 0);
    if (used < 1 || used > 65535)
      fail(ExitCode::usage, "expected a port from 1 to 65535 in MASTER_PORT, got {}", *port);
    found.address = {*host, static_cast<int>(used)};
    found.address_from = "MASTER_ADDR and MASTER_PORT";
    if (found.nonce.empty()) {
      if (const auto run = source.text("TORCHELASTIC_RUN_ID")) {
        found.nonce = *run + "." + source.text("TORCHELASTIC_RESTART_COUNT").value_or("0");
      }
    }
    return;
  }
  if (found.launcher == Launcher::slurm) {
    const auto nodes = source.text("SLURM_STEP_NODELIST");
    if (!nodes) return;
    const auto job = source.number("SLURM_JOB_ID").value_or(0), step = source.number("SLURM_STEP_ID").value_or(0);
    // Below the ports that systems give out themselves (from 32768), another one for each step of a node's jobs.
    found.address = {first_host(*nodes), static_cast<int>(15000 + (job * 31 + step) % 15000)};
    found.address_from = "SLURM_STEP_NODELIST and SLURM_JOB_ID";
    if (found.nonce.empty()) found.nonce = fmt::format("slurm.{}.{}", job, step);
    return;
  }
  if (host || port) {
    // Half an address is a mistake where it is needed, and nobody's business elsewhere.
    found.address_from = host ? "MASTER_ADDR (MASTER_PORT is not set)" : "MASTER_PORT (MASTER_ADDR is not set)";
  }
}

// Both speak of many ranks and do not say the same.
bool contradict(const Said& said, const Said& outer) {
  return outer.speaks() && *outer.world > 1 && (*said.rank != *outer.rank || *said.world != *outer.world);
}

// torchrun and t6 launch may be started by another launcher, once a host; numbers given by hand may not differ.
void require_no_contradiction(const Source& source, const Said& said, const Said& torchrun,
                              std::initializer_list<const Said*> outer) {
  const bool given = said.launcher == Launcher::flags;
  if (given && contradict(said, torchrun)) {
    fail(ExitCode::usage, "{} contradict {}; leave out one of them", said.pair(), torchrun.pair());
  }
  const bool inner = source.text("TORCHELASTIC_RUN_ID") || source.text(kNonceVariable);
  if (!given && (said.launcher != Launcher::torchrun || inner)) return;
  for (const Said* other : outer) {
    if (!contradict(said, *other)) continue;
    fail(ExitCode::usage,
         "{} contradict {}, which {} says; {}, or start one process a host and let torchrun start the ranks",
         said.pair(), other->pair(), describe(other->launcher),
         given ? "leave out the flags" : "unset RANK and WORLD_SIZE");
  }
}

Found decide(const RankFlags& flags, const Source& source) {
  const Said given = from_flags(flags);
  const Said torchrun =
      from_variables(source, Launcher::torchrun, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE");
  const Said open_mpi = from_variables(source, Launcher::open_mpi, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
                                       "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE");
  const Said mpich =
      from_variables(source, Launcher::mpich, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS");
  const Said slurm = from_slurm(source);
  const Said* all[] = {&given, &torchrun, &open_mpi, &mpich, &slurm};
  const Said* said = nullptr;
  for (const Said* each : all) {
    if (said == nullptr && each->speaks()) said = each;
  }
  Found found;
  if (said == nullptr) {
    take_address(source, flags, found);
    return found;
  }
  found.launcher = said->launcher;
  found.ranks.rank = static_cast<int>(*said->rank);
  found.ranks.world = static_cast<int>(*said->world);

  require_no_contradiction(source, *said, torchrun, {&open_mpi, &mpich, &slurm});

  // MPI_Init asks the library's own launcher, whoever else gave numbers. Slurm serves MPI where srun had --mpi.
  const auto same = [&](const Said& other) {
    return other.speaks() && *other.rank == *said->rank && *other.world == *said->world;
  };
  const bool served = source.text("PMIX_RANK") || source.text("PMI_RANK");
  found.mpi = same(open_mpi) || same(mpich) || (said == &slurm && served);
  if (said == &mpich && same(slurm)) found.launcher = Launcher::slurm;

  take_address(source, flags, found);
  const bool one_host = is_loopback(found.address.host);
  const Said* local = said;
  for (const Said* other : {&open_mpi, &mpich, &slurm}) {
    if (!local->local_rank && same(*other)) local = other;
  }
  found.ranks.local_rank = static_cast<int>(local->local_rank.value_or(one_host ? *said->rank : 0));
  found.local_world_guessed = !local->local_world;
  found.ranks.local_world = static_cast<int>(local->local_world.value_or(one_host ? *said->world : 1));
  if (found.ranks.world == 1) return found;

  if (!local->local_rank && !one_host) {
    fail(ExitCode::usage,
         "{}, but {} is not given: which of its host's ranks is this? (0 for the first: it takes GPU 0)", said->pair(),
         said->local_rank_name);
  }
  if (found.address.host.empty() && !found.mpi) {
    fail(ExitCode::usage, "{}, but where is rank 0? Give {}{}", said->pair(),
         said == &given ? "--address HOST:PORT, a free port of rank 0's host"
                        : "MASTER_ADDR and MASTER_PORT, a free port of rank 0's host",
         found.address_from.empty() ? "" : fmt::format("; there is only {}", found.address_from));
  }
  return found;
}

// The outermost launcher says that this is another process than its first.
bool is_another(const Source& source) {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"}) {
    if (const auto rank = source.text(name)) return *rank != "0";
  }
  return source.text("SLURM_STEP_ID") && source.text("SLURM_PROCID").value_or("0") != "0";
}

}  // namespace

std::string Address::text() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

const char* describe(Launcher launcher) {
  switch (launcher) {
    case Launcher::none:
      return "nothing (one rank)";
    case Launcher::flags:
      return "the flags --rank and --world";
    case Launcher::torchrun:
      return "torchrun's variables RANK and WORLD_SIZE";
    case Launcher::open_mpi:
      return "Open MPI's mpirun";
    case Launcher::mpich:
      return "MPICH's mpiexec";
    case Launcher::slurm:
      return "Slurm's srun";
  }
  return "";
}

Address parse_address(const std::string& text, const std::string& from) {
  const size_t colon = text.rfind(':');
  std::string host = text.substr(0, colon);
  int port = 0;
  bool good = colon != std::string::npos && colon > 0;
  if (good) {
    const char* end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data() + colon + 1, end, port);
    good = error == std::errc() && at == end && port >= 1 && port <= 65535;
  }
  if (good && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string::npos) {
    good = false;  // an IPv6 number without brackets: which colon is the port's?
  }
  if (!good || host.empty()) {
    fail(ExitCode::usage, "expected HOST:PORT in {} (such as node1:29500 or [::1]:29500), got '{}'", from, text);
  }
  return {host, port};
}

bool is_loopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

Found discover(const RankFlags& flags, const Lookup& lookup) {
  const Source source(lookup);
  try {
    return decide(flags, source);
  } catch (const Error& error) {
    if (is_another(source)) throw SaidElsewhere(error.code(), error.what());
    throw;
  }
}

Found discover(const RankFlags& flags) {
  return discover(flags, [](const char* name) { return std::getenv(name); });
}

}  // namespace t6::dist
