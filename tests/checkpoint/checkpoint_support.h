// A scratch folder, small states of random bits, and ways to damage files, for the tests of checkpoints.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/io.h"
#include "base/rng.h"
#include "checkpoint/checkpoint.h"

namespace t6::checkpoint {

// A tensor of random bits: denormals, infinities and NaNs with payloads among them.
inline Tensor random_bits(uint64_t seed, const Shape& shape, DType dtype) {
  const Tensor tensor = Tensor::empty(shape, dtype);
  const Philox random(seed, RngPurpose::test);
  auto* bytes = static_cast<std::byte*>(tensor.raw());
  for (size_t i = 0; i < tensor.bytes(); ++i) bytes[i] = static_cast<std::byte>(random.bits(i));
  return tensor;
}

inline bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.raw(), b.raw(), a.bytes()) == 0;
}

// A training state in miniature; `rows` sets its size.
struct Model {
  std::vector<std::string> names;
  std::vector<Tensor> tensors;

  Model(uint64_t seed, int64_t rows = 64) {
    add("params/embedding.weight", random_bits(seed, {rows, 24}, DType::f32));
    add("params/blocks.0.norm.weight", random_bits(seed + 1, {24}, DType::bf16));
    add("params/scale", random_bits(seed + 2, {}, DType::f32));
    add("adamw/m/embedding.weight", random_bits(seed + 3, {rows, 24}, DType::f32));
    add("adamw/v/embedding.weight", random_bits(seed + 4, {rows, 24}, DType::f64));
    add("loader/ids", random_bits(seed + 5, {2, 3, 5}, DType::i32));
  }
  void add(const std::string& name, const Tensor& tensor) {
    names.push_back(name);
    tensors.push_back(tensor);
  }
  State state(int64_t step = 0) const {
    State state;
    for (size_t i = 0; i < names.size(); ++i) state.tensors.push_back(tensor_ref(names[i], tensors[i]));
    state.scalars = {{"tokens", step * 1000}, {"loss", 0.1}, {"rng", {{"seed", 0xFFFFFFFFFFFFFFFFull}}}};
    return state;
  }
  bool equals(const Model& other) const {
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (!same_bits(tensors[i], other.tensors[i])) return false;
    }
    return names == other.names;
  }
};

// A folder of its own for each test, gone afterwards; no fault hook is left behind.
class ScratchTest : public ::testing::Test {
 protected:
  // memory: a file system without a disk where there is one, for sweeps that would wait for fsync most of their time.
  enum class Place { disk, memory };
  explicit ScratchTest(Place place = Place::disk) : place_(place) {}

  fs::path root() const {
    const fs::path memory = "/dev/shm";
    const bool use_memory =
        place_ == Place::memory && ::access(memory.c_str(), W_OK) == 0 && io::free_bytes(memory) >= uint64_t{256} << 20;
    return use_memory ? memory : fs::temp_directory_path();
  }
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = root() / fmt::format("t6-{}-{}-{}", info->test_suite_name(), info->name(), static_cast<int>(::getpid()));
    io::remove_all(folder_);
    io::make_directories(folder_);
  }
  void TearDown() override {
    io::set_fault_hook({});
    io::remove_all(folder_);
  }
  fs::path folder_;
  Place place_;
};

inline std::string read_bytes(const fs::path& path) {
  return io::read_text(path);
}

inline void write_bytes(const fs::path& path, const std::string& bytes) {
  io::File file = io::File::create(path);
  file.write_all(bytes);
}

inline void flip_bit(const fs::path& path, size_t offset, int bit) {
  std::string bytes = read_bytes(path);
  bytes.at(offset) = static_cast<char>(bytes[offset] ^ (1 << bit));
  write_bytes(path, bytes);
}

// The Error that f throws; a failed test and an empty one when it throws none.
template <class F>
Error error_of(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "expected an Error";
  return {ExitCode::ok, ""};
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace t6::checkpoint
