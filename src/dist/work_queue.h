// A thread that does what it is given, one thing after the other, while the caller goes on.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace t6::dist {

class WorkQueue {
 public:
  WorkQueue();   // the thread takes no signals
  ~WorkQueue();  // waits for what was pushed
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // Asks for `work`. What an earlier one threw is thrown here and by every later call of push() and wait(); work behind
  // it is dropped.
  void push(std::function<void()> work);
  // Waits until all that was pushed is done.
  void wait();
  // What was thrown; empty: nothing.
  std::string failure() const;

 private:
  void run();

  mutable std::mutex mutex_;
  std::condition_variable work_, idle_;
  std::deque<std::function<void()>> queue_;
  bool busy_ = false, stop_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace t6::dist
