#include "checkpoint/hdf5_writer.h"

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/hdf5.h"
#include "checkpoint/hdf5_type.h"

namespace t6::checkpoint {
namespace {

using hdf5::Handle;

constexpr uint64_t kChunkBytes = uint64_t{1} << 20;
constexpr size_t kMaxName = 255;

// HDF5 wants at least one dimension for chunks: a scalar is stored as [1].
std::vector<hsize_t> dims_of(const Shape& shape) {
  std::vector<hsize_t> dims(shape.begin(), shape.end());
  if (dims.empty()) dims.push_back(1);
  return dims;
}

}  // namespace

bool is_valid_name(std::string_view name) {
  if (name.empty() || name.size() > kMaxName) return false;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    begin = end + 1;
  }
  return std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < '\x7f'; });
}

Shape chunk_shape(DType dtype, const Shape& shape) {
  std::vector<int64_t> chunk(shape.begin(), shape.end());
  uint64_t below = static_cast<uint64_t>(shape.numel()) * size_of(dtype);  // bytes of chunk[i:]
  for (int64_t& extent : chunk) {
    if (below <= kChunkBytes) break;
    below /= static_cast<uint64_t>(extent);
    const int64_t most = std::max<int64_t>(1, static_cast<int64_t>(kChunkBytes / below));
    // Chunks of one size: the last is stored in full, so its padding should be small.
    const int64_t count = (extent + most - 1) / most;
    extent = (extent + count - 1) / count;
    below *= static_cast<uint64_t>(extent);
    if (extent > 1) break;
  }
  return Shape(chunk);
}

uint64_t stored_bytes(DType dtype, const Shape& shape) {
  const Shape chunk = chunk_shape(dtype, shape);
  uint64_t count = 1;
  for (int i = 0; i < shape.rank(); ++i) count *= static_cast<uint64_t>((shape[i] + chunk[i] - 1) / chunk[i]);
  return count * (static_cast<uint64_t>(chunk.numel()) * size_of(dtype) + 32) + 4096;
}

struct Hdf5Writer::Impl : hdf5::Session {
  // Plain lists, as files must not depend on the time.
  Handle group_list{H5Pcreate(H5P_GROUP_CREATE), H5Pclose};

  explicit Impl(const std::filesystem::path& path) : Session(io::File::create_new(path), true, ExitCode::checkpoint) {
    const Handle access = hdf5::driver_access(driver);
    const Handle create(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
    const bool ok = H5Pset_obj_track_times(group_list, false) >= 0 && H5Pset_obj_track_times(create, false) >= 0;
    file = Handle(ok ? H5Fcreate(path.c_str(), H5F_ACC_TRUNC, create, access) : -1, H5Fclose);
    check(file >= 0, "create", "the root");
  }

  void make_parents(const std::string& name) {
    for (size_t slash = name.find('/'); slash != std::string::npos; slash = name.find('/', slash + 1)) {
      const std::string parent = name.substr(0, slash);
      const htri_t there = H5Lexists(file, parent.c_str(), H5P_DEFAULT);
      check(there >= 0, "look up", parent);
      if (there > 0) continue;
      Handle group(H5Gcreate2(file, parent.c_str(), H5P_DEFAULT, group_list, H5P_DEFAULT), H5Gclose);
      check(group >= 0 && group.close(), "create", parent);
    }
  }

  Handle create_dataset(const std::string& name, DType dtype, const Shape& shape) {
    T6_CHECK(is_valid_name(name), "[checkpoint] not a valid tensor name: \"{}\"", name);
    T6_CHECK(shape.numel() > 0, "[checkpoint] {} has no elements: {}", name, to_string(shape));
    make_parents(name);
    T6_CHECK(H5Lexists(file, name.c_str(), H5P_DEFAULT) == 0, "[checkpoint] {} is written twice", name);
    const std::vector<hsize_t> dims = dims_of(shape), chunk = dims_of(chunk_shape(dtype, shape));
    const int rank = static_cast<int>(dims.size());
    const Handle space(H5Screate_simple(rank, dims.data(), nullptr), H5Sclose);
    const Handle create(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    const Handle access(H5Pcreate(H5P_DATASET_ACCESS), H5Pclose);
    const bool ok = space >= 0 && H5Pset_chunk(create, rank, chunk.data()) >= 0 && H5Pset_fletcher32(create) >= 0 &&
                    H5Pset_obj_track_times(create, false) >= 0 &&
                    H5Pset_chunk_cache(access, 521, 2 * kChunkBytes, 1.0) >= 0;
    check(ok, "describe", name);
    Handle dataset(H5Dcreate2(file, name.c_str(), hdf5_type(dtype), space, H5P_DEFAULT, create, access), H5Dclose);
    check(dataset >= 0, "create", name);
    return dataset;
  }

  void write_attribute(const std::string& name, const Handle& type, const void* value) {
    T6_CHECK(is_valid_name(name), "[checkpoint] not a valid attribute name: \"{}\"", name);
    const Handle space(H5Screate(H5S_SCALAR), H5Sclose);
    Handle attribute(H5Acreate2(file, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    check(attribute >= 0 && H5Awrite(attribute, type, value) >= 0 && attribute.close(), "write the attribute", name);
  }
};

Hdf5Writer::Hdf5Writer(const std::filesystem::path& path) {
  hdf5::start();
  impl_ = std::make_unique<Impl>(path);
}

Hdf5Writer::~Hdf5Writer() {
  if (impl_) impl_->finish(false);
}

std::string Hdf5Writer::write(const std::string& name, const Tensor& tensor) {
  const Tensor host = tensor.to(kCpu);
  Handle dataset = impl_->create_dataset(name, host.dtype(), host.shape());
  const bool ok = H5Dwrite(dataset, hdf5_type(host.dtype()), H5S_ALL, H5S_ALL, H5P_DEFAULT, host.raw()) >= 0;
  impl_->check(ok && dataset.close(), "write", name);
  return io::hash_bytes({static_cast<const std::byte*>(host.raw()), host.bytes()});
}

void Hdf5Writer::set_attribute(const std::string& name, int64_t value) {
  impl_->write_attribute(name, {H5Tcopy(H5T_STD_I64LE), H5Tclose}, &value);
}

Hdf5Writer::Closed Hdf5Writer::close() {
  impl_->finish(true);
  io::File file = std::move(impl_->driver.file);
  impl_.reset();
  file.sync();
  Closed closed{file.size(), io::hash_file(file)};
  file.close();
  return closed;
}

}  // namespace t6::checkpoint
