#include "base/hdf5.h"

#include <H5PLpublic.h>
#if H5_VERSION_GE(1, 13, 0)
#include <H5FDdevelop.h>
#endif

#include <algorithm>
#include <cstring>
#include <new>
#include <span>

namespace t6::hdf5 {
namespace {

struct AccessInfo {
  DriverState* state;
};

// The library sees the first member; it stays standard layout for that.
struct OpenFile {
  H5FD_t library;
  DriverState* state;
  haddr_t end_of_addresses;  // as the library wants it
  haddr_t end_of_file;       // as it is
};

OpenFile* self(H5FD_t* file) {
  return reinterpret_cast<OpenFile*>(file);
}
const OpenFile* self(const H5FD_t* file) {
  return reinterpret_cast<const OpenFile*>(file);
}

constexpr haddr_t kMaxAddress = (haddr_t{1} << 62) - 1;

H5FD_t* open_file(const char*, unsigned, hid_t access, haddr_t) {
  const auto* info = static_cast<const AccessInfo*>(H5Pget_driver_info(access));
  if (info == nullptr) return nullptr;
  auto* file = new (std::nothrow) OpenFile{};
  if (file == nullptr) return nullptr;
  file->state = info->state;
  try {
    file->end_of_file = info->state->file.size();
  } catch (...) {
    info->state->give_up();
    delete file;
    return nullptr;
  }
  return &file->library;
}

herr_t close_file(H5FD_t* file) {
  delete self(file);
  return 0;
}

herr_t query(const H5FD_t*, unsigned long* flags) {
  *flags = H5FD_FEAT_AGGREGATE_METADATA | H5FD_FEAT_ACCUMULATE_METADATA | H5FD_FEAT_DATA_SIEVE |
           H5FD_FEAT_AGGREGATE_SMALLDATA;
#ifdef H5FD_FEAT_DEFAULT_VFD_COMPATIBLE
  *flags |= H5FD_FEAT_DEFAULT_VFD_COMPATIBLE;
#endif
  return 0;
}

haddr_t get_end_of_addresses(const H5FD_t* file, H5FD_mem_t) {
  return self(file)->end_of_addresses;
}
herr_t set_end_of_addresses(H5FD_t* file, H5FD_mem_t, haddr_t address) {
  self(file)->end_of_addresses = address;
  return 0;
}
haddr_t get_end_of_file(const H5FD_t* file, H5FD_mem_t) {
  return self(file)->end_of_file;
}

// Bytes that were never written read as zero while a file is being written; in a file being read they are an error.
herr_t read_bytes(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, size_t size, void* buffer) {
  OpenFile* open = self(file);
  DriverState& state = *open->state;
  const std::span<std::byte> bytes(static_cast<std::byte*>(buffer), size);
  size_t there = size;
  if (state.writable) {
    there = address >= open->end_of_file ? 0 : std::min<size_t>(size, open->end_of_file - address);
    std::memset(bytes.data() + there, 0, size - there);
  }
  if (there == 0) return 0;
  if (state.abandoned) {
    std::memset(bytes.data(), 0, size);
    return 0;
  }
  try {
    state.file.read_at(bytes.first(there), address);
  } catch (...) {
    state.give_up();
    return -1;
  }
  return 0;
}

herr_t write_bytes(H5FD_t* file, H5FD_mem_t, hid_t, haddr_t address, size_t size, const void* buffer) {
  OpenFile* open = self(file);
  DriverState& state = *open->state;
  if (!state.abandoned) {
    try {
      state.file.write_at({static_cast<const std::byte*>(buffer), size}, address);
    } catch (...) {
      state.give_up();
    }
  }
  open->end_of_file = std::max<haddr_t>(open->end_of_file, address + size);
  return 0;
}

herr_t truncate_file(H5FD_t* file, hid_t, hbool_t) {
  OpenFile* open = self(file);
  DriverState& state = *open->state;
  if (!state.writable || open->end_of_file == open->end_of_addresses) return 0;
  if (!state.abandoned) {
    try {
      state.file.truncate(open->end_of_addresses);
    } catch (...) {
      state.give_up();
    }
  }
  open->end_of_file = open->end_of_addresses;
  return 0;
}

hid_t driver_id() {
  static const hid_t id = [] {
    static H5FD_class_t driver{};  // the library keeps pointers into it
#if H5_VERSION_GE(1, 13, 2)
    driver.version = H5FD_CLASS_VERSION;
    driver.value = static_cast<H5FD_class_value_t>(H5_VFD_RESERVED + 0x7436);
#endif
    driver.name = "t6";
    driver.maxaddr = kMaxAddress;
    driver.fc_degree = H5F_CLOSE_STRONG;
    driver.fapl_size = sizeof(AccessInfo);
    driver.open = open_file;
    driver.close = close_file;
    driver.query = query;
    driver.get_eoa = get_end_of_addresses;
    driver.set_eoa = set_end_of_addresses;
    driver.get_eof = get_end_of_file;
    driver.read = read_bytes;
    driver.write = write_bytes;
    driver.truncate = truncate_file;
    const H5FD_mem_t map[] = H5FD_FLMAP_DICHOTOMY;
    std::copy(std::begin(map), std::end(map), driver.fl_map);
    return H5FDregister(&driver);
  }();
  T6_CHECK(id >= 0, "HDF5 refused the file driver: {}", last_error());
  return id;
}

}  // namespace

void DriverState::give_up() noexcept {
  if (!error) error = std::current_exception();
  abandoned = true;
}

void start() {
  static const bool started = [] {
    H5dont_atexit();                                        // nothing of ours is open at exit
    return H5open() >= 0 && H5PLset_loading_state(0) >= 0;  // a file must not make us load code
  }();
  T6_CHECK(started, "the HDF5 library could not be started");
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);  // each thread has its own stack
}

Guard guard() {
  static std::recursive_mutex mutex;
  return Guard(mutex);
}

Handle driver_access(DriverState& state) {
  Handle access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  const AccessInfo info{&state};
  const bool ok = access >= 0 && H5Pset_driver(access, driver_id(), &info) >= 0 &&
                  (!state.writable || H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) >= 0) &&
                  H5Pset_fclose_degree(access, H5F_CLOSE_STRONG) >= 0;
  T6_CHECK(ok, "HDF5 file access list: {}", last_error());
  return access;
}

std::string last_error() {
  std::string text;
  const auto visit = [](unsigned n, const H5E_error2_t* entry, void* data) -> herr_t {
    if (n == 0 && entry->desc != nullptr) *static_cast<std::string*>(data) = entry->desc;
    return 0;
  };
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, visit, &text);
  H5Eclear2(H5E_DEFAULT);
  return text.empty() ? "no reason given" : text;
}

void Session::failed(const char* what, const std::string& object) {
  std::string reason = last_error();
  if (const std::exception_ptr error = std::exchange(driver.error, nullptr)) {
    driver.abandoned = true;
    try {
      std::rethrow_exception(error);
    } catch (const Error& system) {
      if (driver.writable) throw;
      reason = system.what();  // as a rule, the file is shorter than its own metadata says
    }
  }
  driver.abandoned = driver.writable;
  fail(driver.writable ? ExitCode::io : reading, "cannot {} {} in {}: {}", what, object, driver.file.path().string(),
       reason);
}

void Session::finish(bool keep) {
  if (!keep) driver.abandoned = true;
  const bool ok = file.close();
  if (keep) check(ok, "close", "the file");
  H5Eclear2(H5E_DEFAULT);
}

}  // namespace t6::hdf5
