// Makes token shards, good and bad ones, and a folder for them that goes away with the test.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"

namespace t6::data::testing {

namespace fs = std::filesystem;

class TempFolder {
 public:
  TempFolder() {
    std::string name = (fs::temp_directory_path() / "t6_data_XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  fs::path operator/(const std::string& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

inline void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

inline std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A .bin shard's bytes: header {magic, version, count} and the ids in `width` bytes each.
inline std::string bin_bytes(int32_t magic, int32_t version, int32_t count, int width,
                             const std::vector<uint32_t>& ids) {
  std::string bytes(1024 + ids.size() * static_cast<size_t>(width), '\0');
  std::memcpy(bytes.data(), &magic, 4);
  std::memcpy(bytes.data() + 4, &version, 4);
  std::memcpy(bytes.data() + 8, &count, 4);
  for (size_t i = 0; i < ids.size(); ++i) std::memcpy(bytes.data() + 1024 + i * width, &ids[i], width);
  return bytes;
}

inline std::string bin16(const std::vector<uint32_t>& ids) {
  return bin_bytes(20240520, 1, static_cast<int32_t>(ids.size()), 2, ids);
}

inline std::string bin32(const std::vector<uint32_t>& ids) {
  return bin_bytes(20240801, 7, static_cast<int32_t>(ids.size()), 4, ids);
}

// n ids below `vocabulary` that differ from place to place.
inline std::vector<uint32_t> some_ids(size_t n, uint32_t vocabulary, uint32_t salt = 0) {
  std::vector<uint32_t> ids(n);
  uint32_t state = 12345 + salt;
  for (uint32_t& id : ids) {
    state = state * 1664525 + 1013904223;
    id = static_cast<uint32_t>((uint64_t{state} * vocabulary) >> 32);
  }
  return ids;
}

// The Error that `action` throws; the test fails when it throws none.
inline Error error_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "expected an Error, none was thrown";
  return Error(ExitCode::ok, "");
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace t6::data::testing
