#include "checkpoint/hdf5_file.h"

#include <algorithm>
#include <array>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/hdf5.h"

namespace t6::checkpoint {
namespace {

using hdf5::Handle;

constexpr uint64_t kChunkBytes = uint64_t{1} << 20;
constexpr uint64_t kMaxReadChunkBytes = uint64_t{64} << 20;
constexpr size_t kMaxName = 255;

// HDF5 wants at least one dimension for chunks: a scalar is stored as [1].
std::vector<hsize_t> dims_of(const Shape& shape) {
  std::vector<hsize_t> dims(shape.begin(), shape.end());
  if (dims.empty()) dims.push_back(1);
  return dims;
}

Handle make_bf16() {
  Handle type(H5Tcopy(H5T_IEEE_F32LE), H5Tclose);
  const bool ok = type >= 0 && H5Tset_fields(type, 15, 7, 8, 0, 7) >= 0 && H5Tset_precision(type, 16) >= 0 &&
                  H5Tset_size(type, 2) >= 0 && H5Tset_ebias(type, 127) >= 0;
  T6_CHECK(ok, "HDF5 type of bf16: {}", hdf5::last_error());
  return type;
}

// The type in the file; in memory it is the same, as this program runs on little-endian machines only.
Handle type_of(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return make_bf16();
    case DType::f64:
      return {H5Tcopy(H5T_IEEE_F64LE), H5Tclose};
    case DType::i32:
      return {H5Tcopy(H5T_STD_I32LE), H5Tclose};
    default:
      return {H5Tcopy(H5T_IEEE_F32LE), H5Tclose};
  }
}

// Consecutive elements of a dataset that are a block of it.
struct Box {
  std::vector<hsize_t> start, extent;
  hsize_t size = 1;
};

// Elements [begin, begin + count) in row-major order: as few and large blocks as they make, in their order.
std::vector<Box> boxes_of(const std::vector<hsize_t>& dims, hsize_t begin, hsize_t count) {
  std::vector<Box> boxes;
  for (const hsize_t end = begin + count; begin < end;) {
    // The outermost dimension of which whole slices begin here.
    size_t split = 0;
    hsize_t below = 1;  // elements of a slice
    for (size_t i = 1; i < dims.size(); ++i) below *= dims[i];
    while (begin % below != 0 || end - begin < below) below /= dims[++split];
    Box box{std::vector<hsize_t>(dims.size(), 0), dims, 1};
    hsize_t rest = begin / below;
    const hsize_t slices = std::min((end - begin) / below, dims[split] - rest % dims[split]);
    for (size_t i = split + 1; i-- > 0; rest /= dims[i]) {
      box.start[i] = rest % dims[i];
      box.extent[i] = i == split ? slices : 1;
    }
    box.size = slices * below;
    begin += box.size;
    boxes.push_back(std::move(box));
  }
  return boxes;
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
    Handle dataset(H5Dcreate2(file, name.c_str(), type_of(dtype), space, H5P_DEFAULT, create, access), H5Dclose);
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
  const bool ok = H5Dwrite(dataset, type_of(host.dtype()), H5S_ALL, H5S_ALL, H5P_DEFAULT, host.raw()) >= 0;
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

struct Hdf5Reader::Impl : hdf5::Session {
  explicit Impl(io::File opened) : Session(std::move(opened), false, ExitCode::checkpoint) {
    const Handle access = hdf5::driver_access(driver);
    file = Handle(H5Fopen(driver.file.path().c_str(), H5F_ACC_RDONLY, access), H5Fclose);
    check(file >= 0, "open", "the root");
  }
  ~Impl() { finish(false); }

  void require(bool ok, const std::string& name, const char* expected) {
    if (ok) return;
    H5Eclear2(H5E_DEFAULT);
    fail(ExitCode::checkpoint, "{} in {}: expected {}", name, driver.file.path().string(), expected);
  }

  // Soft and external links are never followed.
  void require_hard_links(const std::string& name) {
    for (size_t slash = name.find('/');; slash = name.find('/', slash + 1)) {
      const std::string part = name.substr(0, slash);
      H5L_info_t info{};
      check(H5Lget_info(file, part.c_str(), &info, H5P_DEFAULT) >= 0, "find", name);
      require(info.type == H5L_TYPE_HARD, part, "a plain entry, got a link to elsewhere");
      if (slash == std::string::npos) return;
    }
  }

  void require_layout(const Handle& dataset, const std::string& name, int rank) {
    const Handle create(H5Dget_create_plist(dataset), H5Pclose);
    require(create >= 0 && H5Pget_layout(create) == H5D_CHUNKED && H5Pget_external_count(create) == 0, name,
            "chunked storage in this file");
    std::array<hsize_t, H5S_MAX_RANK> chunk{};
    require(H5Pget_chunk(create, H5S_MAX_RANK, chunk.data()) == rank, name, "a chunk of the tensor's rank");
    const Handle type(H5Dget_type(dataset), H5Tclose);
    uint64_t bytes = H5Tget_size(type);
    for (int i = 0; i < rank; ++i) {
      require(chunk[i] <= kMaxReadChunkBytes && bytes * chunk[i] <= kMaxReadChunkBytes, name,
              "a chunk of at most 64 MiB");
      bytes *= chunk[i];
    }
    unsigned flags = 0, config = 0;
    size_t values = 0;
    require(H5Pget_nfilters(create) == 1 &&
                H5Pget_filter2(create, 0, &flags, &values, nullptr, 0, nullptr, &config) == H5Z_FILTER_FLETCHER32,
            name, "Fletcher32 as the only filter");
  }

  Handle open_attribute(const std::string& name) {
    Handle attribute(H5Aopen(file, name.c_str(), H5P_DEFAULT), H5Aclose);
    check(attribute >= 0, "find the attribute", name);
    const Handle space(H5Aget_space(attribute), H5Sclose);
    require(H5Sget_simple_extent_type(space) == H5S_SCALAR, name, "a single value");
    return attribute;
  }

  void read_number(const std::string& name, hid_t type, void* value) {
    const Handle attribute = open_attribute(name);
    const Handle there(H5Aget_type(attribute), H5Tclose);
    require(H5Tequal(there, type) > 0, name, "a number of 64 bits of the right kind");
    check(H5Aread(attribute, type, value) >= 0, "read the attribute", name);
  }
};

Hdf5Reader::Hdf5Reader(io::File file) {
  hdf5::start();
  impl_ = std::make_unique<Impl>(std::move(file));
}
Hdf5Reader::~Hdf5Reader() = default;
Hdf5Reader::Hdf5Reader(Hdf5Reader&&) noexcept = default;

Tensor Hdf5Reader::read(const std::string& name, DType dtype, const Shape& shape) {
  const Tensor tensor = Tensor::empty(shape, dtype);
  read(name, shape, 0, tensor);
  return tensor;
}

void Hdf5Reader::read(const std::string& name, const Shape& shape, int64_t begin, const Tensor& into) {
  const int64_t count = into.numel();
  T6_CHECK(is_valid_name(name) && begin >= 0 && count > 0 && begin <= shape.numel() - count,
           "[checkpoint] cannot read [{}, {}) of \"{}\" {}", begin, begin + count, name, to_string(shape));
  impl_->require_hard_links(name);
  Handle dataset(H5Dopen2(impl_->file, name.c_str(), H5P_DEFAULT), H5Dclose);
  impl_->check(dataset >= 0, "open", name);
  const Handle type = type_of(into.dtype()), there(H5Dget_type(dataset), H5Tclose);
  impl_->require(there >= 0 && H5Tequal(there, type) > 0, name, name_of(into.dtype()));
  const std::vector<hsize_t> dims = dims_of(shape);
  const Handle space(H5Dget_space(dataset), H5Sclose);
  std::array<hsize_t, H5S_MAX_RANK> extent{};
  const bool same = H5Sget_simple_extent_ndims(space) == static_cast<int>(dims.size()) &&
                    H5Sget_simple_extent_dims(space, extent.data(), nullptr) == static_cast<int>(dims.size()) &&
                    std::equal(dims.begin(), dims.end(), extent.begin());
  impl_->require(same, name, ("shape " + to_string(shape)).c_str());
  impl_->require_layout(dataset, name, static_cast<int>(dims.size()));
  if (count == shape.numel()) {
    impl_->check(H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, into.raw()) >= 0, "read", name);
    return;
  }
  auto* to = static_cast<std::byte*>(into.raw());
  for (const Box& box : boxes_of(dims, static_cast<hsize_t>(begin), static_cast<hsize_t>(count))) {
    const Handle memory(H5Screate_simple(1, &box.size, nullptr), H5Sclose);
    const bool ok =
        memory >= 0 &&
        H5Sselect_hyperslab(space, H5S_SELECT_SET, box.start.data(), nullptr, box.extent.data(), nullptr) >= 0 &&
        H5Dread(dataset, type, memory, space, H5P_DEFAULT, to) >= 0;
    impl_->check(ok, "read", name);
    to += box.size * size_of(into.dtype());
  }
}

int64_t Hdf5Reader::get_integer(const std::string& attribute) {
  int64_t value = 0;
  impl_->read_number(attribute, H5T_STD_I64LE, &value);
  return value;
}

}  // namespace t6::checkpoint
