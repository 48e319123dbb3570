// Several ranks in one test: as threads, or as processes of which one may die; and states that are divided among them.
#pragma once

#include <sys/socket.h>
#include <sys/wait.h>

#include <condition_variable>
#include <mutex>
#include <optional>
#include <thread>

#include "base/child.h"
#include "checkpoint/checkpoint_support.h"

// The sanitizers' own locks: a child of several threads could wait for them for ever.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define T6_THREADS_DO_NOT_FORK 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define T6_THREADS_DO_NOT_FORK 1
#endif
#endif

namespace t6::checkpoint {

// The rank of the thread, for fault hooks.
inline thread_local int this_rank = 0;

// Where ranks that are threads meet.
class Meeting {
 public:
  explicit Meeting(int world) : texts_(static_cast<size_t>(world)) {}

  // Error(peer) when one left before this round was complete: then it will never be.
  std::vector<std::string> all_gather(int rank, std::string_view text) {
    std::unique_lock lock(mutex_);
    texts_.at(static_cast<size_t>(rank)) = text;
    const uint64_t round = round_;
    if (++arrived_ == texts_.size()) {
      arrived_ = 0;
      told_ = texts_;
      ++round_;
      changed_.notify_all();
    } else {
      changed_.wait(lock, [&] { return round_ != round || left_; });
      if (round_ == round) fail(ExitCode::peer, "a rank left");
    }
    return told_;
  }
  void leave() {
    const std::lock_guard lock(mutex_);
    left_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> texts_, told_;
  size_t arrived_ = 0;
  uint64_t round_ = 0;
  bool left_ = false;
};

// Runs f(peers) on `world` ranks that are threads; the Error each of them ended with, if any.
template <class F>
std::vector<std::optional<Error>> run_ranks(int world, F&& f) {
#if defined(T6_THREADS_DO_NOT_FORK)
  run_children_here(true);
#endif
  Meeting meeting(world);
  std::vector<std::optional<Error>> errors(static_cast<size_t>(world));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      this_rank = rank;
      try {
        f(Peers{rank, world, [&, rank](std::string_view text) { return meeting.all_gather(rank, text); }});
      } catch (const Error& error) {
        errors[static_cast<size_t>(rank)] = error;
      }
      meeting.leave();
    });
  }
  for (std::thread& thread : threads) thread.join();
  run_children_here(false);
  return errors;
}

// The one Error that all ranks ended with; empty when none did.
inline std::optional<Error> common_error(const std::vector<std::optional<Error>>& errors) {
  for (const auto& error : errors) {
    EXPECT_EQ(error.has_value(), errors[0].has_value());
    if (!error || !errors[0]) continue;
    EXPECT_EQ(error->code(), errors[0]->code());
    EXPECT_STREQ(error->what(), errors[0]->what());
  }
  return errors[0];
}

inline void expect_no_error(const std::vector<std::optional<Error>>& errors) {
  for (const auto& error : errors) EXPECT_FALSE(error.has_value()) << error->what();
}

// All texts of ranks that are processes go through rank 0; a rank that died is an Error(peer) for the others.
class Sockets {
 public:
  explicit Sockets(int world) : world_(world), ends_(static_cast<size_t>(world), {-1, -1}) {
    for (int rank = 1; rank < world; ++rank) {
      EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends_[static_cast<size_t>(rank)].data()), 0);
    }
  }
  ~Sockets() {
    for (auto& pair : ends_) close_both(pair);
  }

  // In the process of this rank, before the first text.
  Peers peers(int rank) {
    for (int other = 1; other < world_; ++other) {
      auto& pair = ends_[static_cast<size_t>(other)];
      if (rank == 0) close(pair[1]);
      if (rank == other) close(pair[0]);
      if (rank != 0 && rank != other) close_both(pair);
    }
    return {rank, world_, [this, rank](std::string_view text) { return all_gather(rank, text); }};
  }

 private:
  static void close(int& end) {
    if (end >= 0) ::close(end);
    end = -1;
  }
  static void close_both(std::array<int, 2>& pair) {
    close(pair[0]);
    close(pair[1]);
  }
  static void put(int end, std::string_view text) {
    const uint64_t size = text.size();
    std::string message(reinterpret_cast<const char*>(&size), sizeof size);
    message += text;
    for (size_t done = 0; done < message.size();) {
      const ssize_t n = ::send(end, message.data() + done, message.size() - done, MSG_NOSIGNAL);
      if (n <= 0) fail(ExitCode::peer, "a rank died");
      done += static_cast<size_t>(n);
    }
  }
  static std::string get(int end) {
    const auto fill = [end](void* to, size_t size) {
      if (size > 0 && ::recv(end, to, size, MSG_WAITALL) != static_cast<ssize_t>(size)) {
        fail(ExitCode::peer, "a rank died");
      }
    };
    uint64_t size = 0;
    fill(&size, sizeof size);
    std::string text(size, '\0');
    fill(text.data(), size);
    return text;
  }
  std::vector<std::string> all_gather(int rank, std::string_view text) {
    std::vector<std::string> texts(static_cast<size_t>(world_));
    if (rank > 0) {
      put(ends_[static_cast<size_t>(rank)][1], text);
      for (std::string& one : texts) one = get(ends_[static_cast<size_t>(rank)][1]);
      return texts;
    }
    texts[0] = text;
    for (size_t other = 1; other < texts.size(); ++other) texts[other] = get(ends_[other][0]);
    for (size_t other = 1; other < texts.size(); ++other) {
      for (const std::string& one : texts) put(ends_[other][0], one);
    }
    return texts;
  }

  int world_;
  std::vector<std::array<int, 2>> ends_;  // of rank 0, of the other
};

// Runs f(peers) on `world` ranks that are processes; the exit status of each: 0, what f called _exit with, the code of
// an Error.
template <class F>
std::vector<int> run_processes(int world, F&& f) {
  Sockets sockets(world);
  std::vector<pid_t> children;
  for (int rank = 0; rank < world; ++rank) {
    const pid_t child = ::fork();
    if (child == 0) {
      this_rank = rank;
      try {
        f(sockets.peers(rank));
      } catch (const Error& error) {
        ::_exit(static_cast<int>(error.code()));
      } catch (...) {
        ::_exit(99);
      }
      ::_exit(0);
    }
    children.push_back(child);
  }
  sockets.~Sockets();
  new (&sockets) Sockets(1);
  std::vector<int> statuses;
  for (const pid_t child : children) {
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    statuses.push_back(WEXITSTATUS(status));
  }
  return statuses;
}

// Element e of all tensors one after another is of rank (e / slice) % world: a rank has several ranges of a tensor, a
// range ends with its tensor, and a rank that has nothing of a tensor only names it.
inline State part_of(const Model& model, int rank, int world, int64_t slice, int64_t step = 0) {
  State state = model.state(step);
  state.tensors.clear();
  if (rank > 0) state.scalars = {{"of rank", rank}};  // those of rank 0 are saved
  int64_t offset = 0;
  for (size_t i = 0; i < model.names.size(); ++i) {
    const Tensor& whole = model.tensors[i];
    const Tensor flat = whole.view({whole.numel()});
    const auto add = [&](int64_t begin, int64_t count) {
      TensorRef ref;
      ref.name = model.names[i];
      ref.dtype = whole.dtype();
      ref.shape = whole.shape();
      ref.get = [=] { return flat.slice(begin, {count}).clone(); };
      ref.set = [=](const Tensor& value) {
        EXPECT_EQ(value.shape(), Shape{count});
        flat.slice(begin, {count}).copy_from(value);
      };
      ref.begin = begin;
      ref.count = count;
      state.tensors.push_back(ref);
    };
    bool has = false;
    for (int64_t begin = 0; begin < whole.numel();) {
      const int64_t place = offset + begin, end = std::min(whole.numel(), begin + slice - place % slice);
      if (place / slice % world == rank) {
        add(begin, end - begin);
        has = true;
      }
      begin = end;
    }
    if (!has) add(0, 0);
    offset += whole.numel();
  }
  return state;
}

// Tensors as in `like`, every byte the same.
inline Model blank(const Model& like) {
  Model model = like;
  for (Tensor& tensor : model.tensors) {
    tensor = Tensor::empty(tensor.shape(), tensor.dtype());
    std::memset(tensor.raw(), 0x5A, tensor.bytes());
  }
  return model;
}

// One blank Model a rank, of which that rank's part is loaded.
struct Parts {
  std::vector<Model> models;
  int64_t slice = 0;

  Parts(int world, const Model& like, int64_t slice_size) : slice(slice_size) {
    for (int rank = 0; rank < world; ++rank) models.push_back(blank(like));
  }
  int world() const { return static_cast<int>(models.size()); }
  State state(int rank) const { return part_of(models.at(static_cast<size_t>(rank)), rank, world(), slice); }
  // True when they make up `saved` and nothing else was touched.
  bool are(const Model& saved) const {
    for (int rank = 0; rank < world(); ++rank) {
      const Model expected = blank(saved);
      const State from = part_of(saved, rank, world(), slice), to = part_of(expected, rank, world(), slice);
      for (size_t i = 0; i < from.tensors.size(); ++i) {
        if (from.tensors[i].count > 0) to.tensors[i].set(from.tensors[i].get());
      }
      if (!models[static_cast<size_t>(rank)].equals(expected)) return false;
    }
    return true;
  }
};

// Saves `model` in parts by `world` ranks.
inline void save_in_parts(const fs::path& dir, int64_t step, const Model& model, int world, int64_t slice,
                          const SaveOptions& options = {}) {
  expect_no_error(run_ranks(world, [&](const Peers& peers) {
    save(dir, step, part_of(model, peers.rank, world, slice, step), options, peers);
  }));
}

}  // namespace t6::checkpoint
