#include "checkpoint/hdf5_layout.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/child.h"
#include "base/error.h"
#include "base/hdf5.h"
#include "base/strict_json.h"
#include "checkpoint/hdf5_type.h"

namespace t6::checkpoint {
namespace {

using hdf5::Handle;
using nlohmann::json;

constexpr std::array kTypes{DType::f32, DType::bf16, DType::f64, DType::i32};
constexpr uint64_t kMaxChunkBytes = uint64_t{64} << 20;
constexpr uint64_t kChecksumBytes = 4;
constexpr size_t kMaxName = 255;

// In the child ----------------------------------------------------------------------------------------------------

// What was expected of an entry that is not so.
struct Refused {
  std::string expected;
};
void require(bool ok, const char* expected) {
  if (!ok) throw Refused{expected};
}

class Walk {
 public:
  explicit Walk(const io::File& file) : driver_{file.duplicate(), false, false, {}} {
    const Handle access = hdf5::driver_access(driver_);
    file_ = Handle(H5Fopen(file.path().c_str(), H5F_ACC_RDONLY, access), H5Fclose);
    check(file_ >= 0, "open", "the root");
  }

  std::string told() {
    read_integers();
    read_group(file_, "");
    return told_.dump(-1, ' ', false, json::error_handler_t::replace);
  }

 private:
  // Attributes of the root that are one 64-bit integer; others are passed over.
  void read_integers() {
    told_["integers"] = json::object();
    const auto collect = [](hid_t, const char* name, const H5A_info_t*, void* data) -> herr_t {
      static_cast<std::vector<std::string>*>(data)->emplace_back(name);
      return 0;
    };
    std::vector<std::string> names;
    check(H5Aiterate2(file_, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names) >= 0, "list", "the attributes");
    for (const std::string& name : names) {
      const Handle attribute(H5Aopen(file_, name.c_str(), H5P_DEFAULT), H5Aclose);
      check(attribute >= 0, "open the attribute", name);
      const Handle type(H5Aget_type(attribute), H5Tclose), space(H5Aget_space(attribute), H5Sclose);
      if (H5Tequal(type, H5T_STD_I64LE) <= 0 || H5Sget_simple_extent_type(space) != H5S_SCALAR) continue;
      int64_t value = 0;
      check(H5Aread(attribute, H5T_STD_I64LE, &value) >= 0, "read the attribute", name);
      told_["integers"][name] = value;
    }
  }

  void read_group(hid_t group, const std::string& prefix) {
    const auto collect = [](hid_t, const char* name, const H5L_info_t*, void* data) -> herr_t {
      static_cast<std::vector<std::string>*>(data)->emplace_back(name);
      return 0;
    };
    std::vector<std::string> names;
    check(H5Literate(group, H5_INDEX_NAME, H5_ITER_INC, nullptr, collect, &names) >= 0, "list", prefix);
    for (const std::string& name : names) {
      const std::string path = prefix + name;
      // Names end there; and groups may lead back to themselves.
      if (path.size() > kMaxName) continue;
      try {
        read_entry(group, name, path);
      } catch (const Refused& refused) {
        told_["refused"][path] = refused.expected;
      }
    }
  }

  void read_entry(hid_t group, const std::string& name, const std::string& path) {
    // Soft and external links are never followed.
    H5L_info_t link{};
    check(H5Lget_info(group, name.c_str(), &link, H5P_DEFAULT) >= 0, "find", path);
    require(link.type == H5L_TYPE_HARD, "a plain entry, got a link to elsewhere");
    const Handle object(H5Oopen(group, name.c_str(), H5P_DEFAULT), H5Oclose);
    check(object >= 0, "open", path);
    switch (H5Iget_type(object)) {
      case H5I_GROUP:
        return read_group(object, path + "/");
      case H5I_DATASET:
        told_["datasets"][path] = dataset(object, path);
        return;
      default:
        throw Refused{"a group or a dataset"};
    }
  }

  json dataset(hid_t dataset, const std::string& path) {
    const Handle type(H5Dget_type(dataset), H5Tclose), space(H5Dget_space(dataset), H5Sclose),
        create(H5Dget_create_plist(dataset), H5Pclose);
    const auto dtype =
        std::find_if(kTypes.begin(), kTypes.end(), [&](DType t) { return H5Tequal(type, hdf5_type(t)) > 0; });
    require(dtype != kTypes.end(), "numbers of type f32, bf16, f64 or i32");
    require(create >= 0 && H5Pget_layout(create) == H5D_CHUNKED && H5Pget_external_count(create) == 0,
            "chunked storage in this file");
    unsigned flags = 0, config = 0;
    size_t values = 0;
    require(H5Pget_nfilters(create) == 1 &&
                H5Pget_filter2(create, 0, &flags, &values, nullptr, 0, nullptr, &config) == H5Z_FILTER_FLETCHER32,
            "Fletcher32 as the only filter");
    std::array<hsize_t, H5S_MAX_RANK> dims{}, chunk{};
    const int rank = H5Sget_simple_extent_ndims(space);
    require(rank >= 1 && H5Sget_simple_extent_dims(space, dims.data(), nullptr) == rank &&
                H5Pget_chunk(create, rank, chunk.data()) == rank,
            "chunks of the tensor's rank");
    return {{"dtype", dtype - kTypes.begin()},
            {"dims", std::vector<hsize_t>(dims.begin(), dims.begin() + rank)},
            {"chunk", std::vector<hsize_t>(chunk.begin(), chunk.begin() + rank)},
            {"addresses",
             addresses(dataset, path, {dims.data(), size_t(rank)}, {chunk.data(), size_t(rank)}, size_of(*dtype))}};
  }

  // Of all chunks, in row-major order of their places.
  std::vector<uint64_t> addresses(hid_t dataset, const std::string& path, std::span<const hsize_t> dims,
                                  std::span<const hsize_t> chunk, size_t width) {
    uint64_t bytes = width, left = driver_.file.size();
    for (const hsize_t extent : chunk) {
      require(extent > 0 && extent <= kMaxChunkBytes / bytes, "chunks of at most 64 MiB");
      bytes *= extent;
    }
    std::vector<uint64_t> found;
    if (std::find(dims.begin(), dims.end(), hsize_t{0}) != dims.end()) return found;
    for (std::vector<hsize_t> place(dims.size(), 0);;) {
      unsigned mask = 0;
      haddr_t address = 0;
      hsize_t size = 0;
      check(H5Dget_chunk_info_by_coord(dataset, place.data(), &mask, &address, &size) >= 0, "find a chunk of", path);
      require(mask == 0 && size == bytes + kChecksumBytes && left >= size, "all chunks in full, with their checksums");
      left -= size;  // more chunks than the file has room for end here
      found.push_back(address);
      size_t i = dims.size();
      while (i > 0 && (place[i - 1] += chunk[i - 1]) >= dims[i - 1]) place[--i] = 0;
      if (i == 0) return found;
    }
  }

  void check(bool ok, const char* what, const std::string& object) {
    if (ok && !driver_.error) return;
    fail(ExitCode::checkpoint, "cannot {} {} in {}: {}", what, object, driver_.file.path().string(),
         hdf5::last_error());
  }

  // No Session: its guard is the parent's thread's, which holds it.
  hdf5::DriverState driver_;
  Handle file_;
  json told_ = {{"datasets", json::object()}, {"refused", json::object()}};
};

// In the parent ---------------------------------------------------------------------------------------------------

// Nothing when a dataset's chunks are not consecutive elements, or not all in a file of `file_size` bytes.
std::optional<Hdf5Dataset> dataset_of(const json& told, uint64_t file_size) {
  Hdf5Dataset dataset;
  const auto dims = told.at("dims").get<std::vector<int64_t>>(), chunk = told.at("chunk").get<std::vector<int64_t>>();
  const size_t type = told.at("dtype");
  dataset.addresses = told.at("addresses").get<std::vector<uint64_t>>();
  if (type >= kTypes.size() || dims.empty() || dims.size() > Shape::kMaxRank || dims.size() != chunk.size()) {
    return std::nullopt;
  }
  dataset.dtype = kTypes[type];

  // One chunk is one place of the outer dimensions, some of dimension `split`, and all of the inner ones.
  size_t split = 0;
  while (split + 1 < dims.size() && chunk[split] == 1) ++split;
  int64_t count = 1;
  for (size_t i = 0; i < dims.size(); ++i) {
    if (dims[i] <= 0 || chunk[i] <= 0 || chunk[i] > dims[i] || (i > split && chunk[i] != dims[i])) return std::nullopt;
    if (__builtin_mul_overflow(count, dims[i], &count)) return std::nullopt;
    if (i < split) continue;
    dataset.slice_elements *= dims[i];
    dataset.chunk_elements *= chunk[i];
  }
  dataset.shape = Shape(dims);
  const uint64_t stored = dataset.chunk_bytes() + kChecksumBytes;
  const auto inside = [&](uint64_t address) { return stored <= file_size && address <= file_size - stored; };
  const auto chunks = static_cast<uint64_t>(count / dataset.slice_elements * dataset.chunks_per_slice());
  if (dataset.chunk_bytes() > kMaxChunkBytes || chunks != dataset.addresses.size() ||
      !std::all_of(dataset.addresses.begin(), dataset.addresses.end(), inside)) {
    return std::nullopt;
  }
  return dataset;
}

}  // namespace

std::optional<Hdf5Layout> parse_told(const std::string& text, uint64_t file_size) {
  const std::optional<json> document = parse_told_json(text);
  if (!document) return std::nullopt;
  try {
    const json& told = *document;
    Hdf5Layout layout;
    layout.integers = told.at("integers").get<std::map<std::string, int64_t>>();
    layout.refused = told.at("refused").get<std::map<std::string, std::string>>();
    for (const auto& [name, entry] : told.at("datasets").items()) {
      if (std::optional<Hdf5Dataset> dataset = dataset_of(entry, file_size)) {
        layout.datasets.emplace(name, std::move(*dataset));
      } else {
        layout.refused.emplace(name, "at most five dimensions, in chunks of consecutive elements inside the file");
      }
    }
    return layout;
  } catch (const json::exception&) {
    return std::nullopt;
  }
}

Hdf5Layout read_hdf5_layout(const io::File& file) {
  const uint64_t bytes = file.size();
  ChildResult read;
  {
    // Started, and in no other thread's hands, before the process forks.
    const hdf5::Guard guarded = hdf5::guard();
    hdf5::start();
    // A second and 256 MiB, and for many tensors more: a file of them is large.
    read = run_in_child([&] { return Walk(file).told(); }, {.memory_bytes = (uint64_t{256} << 20) + bytes / 16,
                                                            .processor_seconds = 1 + static_cast<int>(bytes >> 28)});
  }
  const std::string path = file.path().string();
  if (!read.failure.empty()) {
    fail(ExitCode::checkpoint,
         "{}: the HDF5 library could not read it; tried in a process of its own, {}. It is damaged, or made to do harm",
         path, read.failure);
  }
  std::optional<Hdf5Layout> layout = parse_told(read.text, bytes);
  if (!layout) fail(ExitCode::checkpoint, "{}: what the HDF5 library reads in it contradicts itself", path);
  return std::move(*layout);
}

}  // namespace t6::checkpoint
