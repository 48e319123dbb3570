#include "dist/work_queue.h"

#include <csignal>
#include <utility>

namespace t6::dist {

WorkQueue::WorkQueue() {
  // Signals are for the thread that the program began with.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

WorkQueue::~WorkQueue() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  work_.notify_one();
  thread_.join();
}

void WorkQueue::push(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    if (failure_ != nullptr) std::rethrow_exception(failure_);
    queue_.push_back(std::move(work));
  }
  work_.notify_one();
}

void WorkQueue::wait() {
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return queue_.empty() && !busy_; });
  if (failure_ != nullptr) std::rethrow_exception(failure_);
}

std::string WorkQueue::failure() const {
  const std::lock_guard lock(mutex_);
  if (failure_ == nullptr) return {};
  try {
    std::rethrow_exception(failure_);
  } catch (const std::exception& error) {
    return error.what();
  } catch (...) {
    return "it failed";
  }
}

void WorkQueue::run() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_.wait(lock, [this] { return stop_ || !queue_.empty(); });
    if (queue_.empty()) return;
    std::function<void()> work = std::move(queue_.front());
    queue_.pop_front();
    busy_ = true;
    lock.unlock();
    std::exception_ptr failure;
    try {
      work();
    } catch (...) {
      failure = std::current_exception();
    }
    work = nullptr;  // lets go of what it captured before anybody hears that it is done
    lock.lock();
    busy_ = false;
    if (failure != nullptr) {
      failure_ = failure;
      queue_.clear();
    }
    if (queue_.empty()) idle_.notify_all();
  }
}

}  // namespace t6::dist
