// Reading golden files of tests: whole datasets as f64, string attributes, names. Throws std::runtime_error that names
// file and object when something is not there.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace t6::test {

// tests/data/golden/<name>.h5, or that of the folder which the environment variable T6_GOLDEN_DIR names.
std::string golden_path(const std::string& name);

struct Hdf5Dataset {
  std::vector<int64_t> shape;  // empty for a scalar
  std::vector<double> values;  // row-major
};

class Hdf5Reader {
 public:
  explicit Hdf5Reader(const std::string& path);
  ~Hdf5Reader();
  Hdf5Reader(const Hdf5Reader&) = delete;
  Hdf5Reader& operator=(const Hdf5Reader&) = delete;

  // Any integer or float dataset, "group/name".
  Hdf5Dataset read(const std::string& dataset) const;
  // A string attribute of a group or dataset; "/" is the root.
  std::string attribute(const std::string& object, const std::string& name) const;
  bool has(const std::string& object) const;
  // Paths of all datasets below a group, relative to it, in order of name; "/" is the root.
  std::vector<std::string> datasets(const std::string& group) const;

 private:
  std::string path_;
  int64_t file_;
};

}  // namespace t6::test
