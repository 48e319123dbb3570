#include "tensor/storage.h"

#include <sys/mman.h>

#include <bit>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "base/error.h"
#include "tensor/device_memory.h"

namespace t6 {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kGuardBytes = 64;  // in front of and behind every block
constexpr unsigned char kGuardPattern = 0xA7;
constexpr size_t kHugePage = size_t{2} << 20;

// Block sizes are rounded to eighths of a power of two, so that slightly different requests share blocks.
size_t rounded(size_t bytes) {
  if (bytes <= 4096) return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const size_t step = std::bit_floor(bytes) / 8;
  return (bytes + step - 1) / step * step;
}

// Memory for a block of `size` bytes and its guards, or null. Large blocks ask for huge pages: activations are
// gigabytes, and clearing and mapping them by 4 KiB takes longer than filling them.
std::byte* system_allocate(size_t size) {
  const size_t bytes = size + 2 * kGuardBytes;
  if (size < 2 * kHugePage) return static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes));
  const size_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* block = std::aligned_alloc(kHugePage, whole);
  if (block != nullptr) madvise(block, whole, MADV_HUGEPAGE);  // a hint: without it the block is as good
  return static_cast<std::byte*>(block);
}

// Free CPU blocks by size. The sanitizers see every allocation instead.
class CpuPool {
 public:
  std::byte* allocate(size_t bytes) {
    const std::lock_guard lock(mutex_);
    const size_t size = rounded(bytes);
    std::byte* block = take_cached(size);
    if (block == nullptr) block = system_allocate(size);
    if (block == nullptr) throw std::bad_alloc();
    std::byte* data = block + kGuardBytes;
    if (poison_) {
      std::memset(block, kGuardPattern, kGuardBytes);
      std::memset(data, 0xFF, bytes);
      std::memset(data + bytes, kGuardPattern, size - bytes + kGuardBytes);
      guarded_[data] = bytes;
    }
    usage_.in_use += bytes;
    usage_.peak = std::max(usage_.peak, usage_.in_use);
    return data;
  }

  void free(std::byte* data, size_t bytes) {
    const std::lock_guard lock(mutex_);
    usage_.in_use -= bytes;
    if (auto it = guarded_.find(data); it != guarded_.end()) {
      damaged_ = damaged_ || !intact(*it);
      guarded_.erase(it);
    }
#if defined(__SANITIZE_ADDRESS__)
    std::free(data - kGuardBytes);
#else
    cached_[rounded(bytes)].push_back(data - kGuardBytes);
#endif
  }

  void release_cached() {
    const std::lock_guard lock(mutex_);
    for (auto& [size, blocks] : cached_) {
      for (std::byte* block : blocks) std::free(block);
    }
    cached_.clear();
  }

  void set_poison(bool on) {
    const std::lock_guard lock(mutex_);
    poison_ = on;
    damaged_ = false;
    guarded_.clear();
  }

  void check_guards() {
    const std::lock_guard lock(mutex_);
    for (const auto& block : guarded_) damaged_ = damaged_ || !intact(block);
    T6_CHECK(!std::exchange(damaged_, false),
             "[memory] a kernel wrote outside its tensor: guard bytes were overwritten");
  }

  memory::Usage usage() {
    const std::lock_guard lock(mutex_);
    return usage_;
  }
  void reset_peak() {
    const std::lock_guard lock(mutex_);
    usage_.peak = usage_.in_use;
  }

 private:
  std::byte* take_cached(size_t size) {
    auto it = cached_.find(size);
    if (it == cached_.end() || it->second.empty()) return nullptr;
    std::byte* block = it->second.back();
    it->second.pop_back();
    return block;
  }

  static bool intact(const std::pair<std::byte* const, size_t>& block) {
    const auto [data, bytes] = block;
    const size_t behind = rounded(bytes) - bytes + kGuardBytes;
    for (size_t i = 0; i < kGuardBytes; ++i) {
      if (data[static_cast<ptrdiff_t>(i) - static_cast<ptrdiff_t>(kGuardBytes)] != std::byte{kGuardPattern})
        return false;
    }
    for (size_t i = 0; i < behind; ++i) {
      if (data[bytes + i] != std::byte{kGuardPattern}) return false;
    }
    return true;
  }

  std::mutex mutex_;
  std::map<size_t, std::vector<std::byte*>> cached_;
  std::map<std::byte*, size_t> guarded_;
  memory::Usage usage_;
  bool poison_ = false;
  bool damaged_ = false;
};

// Never destroyed: storages may outlive every static object.
CpuPool& cpu_pool() {
  static CpuPool& pool = *new CpuPool;
  return pool;
}

}  // namespace

std::shared_ptr<Storage> Storage::allocate(size_t bytes, Device device) {
#if defined(T6_HAVE_CUDA)
  if (device.is_cuda()) {
    return std::shared_ptr<Storage>(new Storage(cuda::allocate(bytes, device.index), bytes, device));
  }
#endif
  T6_CHECK(device.is_cpu(), "[storage] this program was built without memory on {}", to_string(device));
  return std::shared_ptr<Storage>(new Storage(cpu_pool().allocate(bytes), bytes, device));
}

Storage::~Storage() {
#if defined(T6_HAVE_CUDA)
  if (device_.is_cuda()) {
    cuda::free(data_, bytes_);
    return;
  }
#endif
  cpu_pool().free(data_, bytes_);
}

namespace memory {
Usage usage() {
  return cpu_pool().usage();
}
void reset_peak() {
  cpu_pool().reset_peak();
}
void release_cached() {
  cpu_pool().release_cached();
}
void set_poison(bool on) {
  cpu_pool().set_poison(on);
#if defined(T6_HAVE_CUDA)
  cuda::set_poison(on);
#endif
}
void check_guards() {
  cpu_pool().check_guards();
#if defined(T6_HAVE_CUDA)
  T6_CHECK(cuda::guards_intact(),
           "[memory] a kernel wrote outside its tensor on the GPU: guard bytes were overwritten");
#endif
}
}  // namespace memory

}  // namespace t6
