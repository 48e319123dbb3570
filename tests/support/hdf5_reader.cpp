#include "support/hdf5_reader.h"

// The interface that HDF5 1.10 and all later releases offer.
#define H5_USE_110_API 1
#include <hdf5.h>

#include <cstdlib>
#include <stdexcept>

namespace t6::test {
namespace {

static_assert(sizeof(hid_t) == sizeof(int64_t));

// An HDF5 handle, closed by its own function.
class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t), const std::string& what) : id_(id), close_(close) {
    if (id < 0) throw std::runtime_error("golden file: cannot open " + what);
  }
  ~Handle() { close_(id_); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  operator hid_t() const { return id_; }

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

void require(bool ok, const std::string& what) {
  if (!ok) throw std::runtime_error("golden file: cannot read " + what);
}

herr_t collect(hid_t, const char* name, const H5O_info_t* info, void* names) {
  if (info->type == H5O_TYPE_DATASET) static_cast<std::vector<std::string>*>(names)->emplace_back(name);
  return 0;
}

}  // namespace

std::string golden_path(const std::string& name) {
  const char* folder = std::getenv("T6_GOLDEN_DIR");
  return (folder != nullptr ? std::string(folder) : std::string(T6_SOURCE_DIR "/tests/data/golden")) + "/" + name +
         ".h5";
}

Hdf5Reader::Hdf5Reader(const std::string& path) : path_(path) {
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  file_ = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  if (file_ < 0) throw std::runtime_error("golden file: cannot open " + path);
}

Hdf5Reader::~Hdf5Reader() {
  H5Fclose(file_);
}

Hdf5Dataset Hdf5Reader::read(const std::string& dataset) const {
  const std::string what = path_ + ":" + dataset;
  const Handle set(H5Dopen2(file_, dataset.c_str(), H5P_DEFAULT), H5Dclose, what);
  const Handle space(H5Dget_space(set), H5Sclose, what);
  std::vector<hsize_t> dims(static_cast<size_t>(H5Sget_simple_extent_ndims(space)));
  H5Sget_simple_extent_dims(space, dims.data(), nullptr);
  Hdf5Dataset result{{dims.begin(), dims.end()}, {}};
  result.values.resize(static_cast<size_t>(H5Sget_simple_extent_npoints(space)));
  require(H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, result.values.data()) >= 0, what);
  return result;
}

std::string Hdf5Reader::attribute(const std::string& object, const std::string& name) const {
  const std::string what = path_ + ":" + object + "@" + name;
  const Handle attribute(H5Aopen_by_name(file_, object.c_str(), name.c_str(), H5P_DEFAULT, H5P_DEFAULT), H5Aclose,
                         what);
  const Handle type(H5Aget_type(attribute), H5Tclose, what);
  require(H5Tget_class(type) == H5T_STRING, what + " as a string");
  if (H5Tis_variable_str(type) > 0) {
    char* text = nullptr;
    require(H5Aread(attribute, type, &text) >= 0 && text != nullptr, what);
    std::string result(text);
    H5free_memory(text);
    return result;
  }
  std::string result(H5Tget_size(type), '\0');
  require(H5Aread(attribute, type, result.data()) >= 0, what);
  return result.substr(0, result.find('\0'));
}

bool Hdf5Reader::has(const std::string& object) const {
  // Every group on the way must be there.
  for (size_t slash = object.find('/', 1); slash != std::string::npos; slash = object.find('/', slash + 1)) {
    if (H5Lexists(file_, object.substr(0, slash).c_str(), H5P_DEFAULT) <= 0) return false;
  }
  return object == "/" || H5Lexists(file_, object.c_str(), H5P_DEFAULT) > 0;
}

std::vector<std::string> Hdf5Reader::datasets(const std::string& group) const {
  std::vector<std::string> names;
  const herr_t status =
      H5Ovisit_by_name(file_, group.c_str(), H5_INDEX_NAME, H5_ITER_INC, collect, &names, H5P_DEFAULT);
  require(status >= 0, path_ + ":" + group);
  return names;
}

}  // namespace t6::test
