// Two threads count without a lock: the thread sanitizer must report it, or scripts/tsan.sh fails.
#include <cstdio>
#include <thread>

int main() {
  int count = 0;
  const auto add = [&count] {
    for (int i = 0; i < 100000; ++i) ++count;
  };
  std::thread first(add), second(add);
  first.join();
  second.join();
  std::printf("%d\n", count);
  return 0;
}
