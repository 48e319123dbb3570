#include "data/hdf5_tokens.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "base/child.h"
#include "base/error.h"
#include "base/hdf5.h"
#include "base/strict_json.h"

namespace t6::data {
namespace {

namespace fs = std::filesystem;
using hdf5::Handle;
using hdf5::last_error;

constexpr size_t kMaxStringAttribute = 4096;
constexpr uint64_t kReaderMemory = uint64_t{256} << 20;  // of the child: an input gets no more (R19)

class Reader {
 public:
  explicit Reader(const io::File& file) : driver_{file.duplicate(), false, false, {}}, file_size_(file.size()) {
    const Handle access = hdf5::driver_access(driver_);
    file_ = Handle(H5Fopen(file.path().c_str(), H5F_ACC_RDONLY, access), H5Fclose);
    if (!file_.valid()) bad("cannot be opened as HDF5 (" + last_error() + ")");
  }

  struct Dataset {
    uint64_t offset, count;
    uint32_t width;
  };

  bool has_link(const char* name) {
    const htri_t found = H5Lexists(file_, name, H5P_DEFAULT);
    if (found < 0) bad("cannot be searched for /" + std::string(name) + " (" + last_error() + ")");
    return found > 0;
  }

  // A 1-D contiguous dataset of one of the two little-endian unsigned types, inside the file.
  Dataset dataset(const char* name, hid_t type_a, hid_t type_b, const char* types) {
    // A soft or external link could lead into another file.
    H5L_info_t link{};
    if (H5Lget_info(file_, name, &link, H5P_DEFAULT) < 0) bad(fmt::format("has no dataset /{}", name));
    if (link.type != H5L_TYPE_HARD) bad(fmt::format("/{} is a link to another place, expected a dataset", name));
    const Handle object(H5Dopen2(file_, name, H5P_DEFAULT), H5Dclose);
    if (!object.valid()) bad(fmt::format("/{} is not a readable dataset ({})", name, last_error()));
    const Handle type(H5Dget_type(object), H5Tclose);
    const Handle space(H5Dget_space(object), H5Sclose);
    const Handle properties(H5Dget_create_plist(object), H5Pclose);
    if (!type.valid() || !space.valid() || !properties.valid()) bad(fmt::format("/{}: {}", name, last_error()));
    if (H5Tequal(type, type_a) <= 0 && H5Tequal(type, type_b) <= 0) {
      bad(fmt::format("/{} has the wrong type, expected little-endian {}", name, types));
    }
    hsize_t count = 0;
    if (H5Sget_simple_extent_type(space) != H5S_SIMPLE || H5Sget_simple_extent_ndims(space) != 1 ||
        H5Sget_simple_extent_dims(space, &count, nullptr) != 1) {
      bad(fmt::format("/{} is not one-dimensional", name));
    }
    if (H5Pget_layout(properties) != H5D_CONTIGUOUS || H5Pget_external_count(properties) != 0) {
      bad(
          fmt::format("/{} is not stored contiguously in the file (chunked, compressed, compact and external datasets "
                      "cannot be read by offset)",
                      name));
    }
    if (count == 0) return {0, 0, static_cast<uint32_t>(H5Tget_size(type))};
    const haddr_t offset = H5Dget_offset(object);
    if (offset == HADDR_UNDEF) bad(fmt::format("/{} was never written", name));
    const uint32_t width = static_cast<uint32_t>(H5Tget_size(type));
    if (offset > file_size_ || count > (file_size_ - offset) / width) {
      bad(fmt::format("/{} should hold {} values of {} bytes at byte {}, but the file has only {} bytes", name, count,
                      width, offset, file_size_));
    }
    return {offset, count, width};
  }

  std::optional<uint64_t> integer(const char* name) {
    if (!has_attribute(name)) return std::nullopt;
    const Handle attribute(H5Aopen(file_, name, H5P_DEFAULT), H5Aclose);
    const Handle type(attribute.valid() ? H5Aget_type(attribute) : -1, H5Tclose);
    const Handle space(attribute.valid() ? H5Aget_space(attribute) : -1, H5Sclose);
    int64_t value = -1;
    if (!type.valid() || !space.valid() || H5Tget_class(type) != H5T_INTEGER ||
        H5Sget_simple_extent_npoints(space) != 1 || H5Aread(attribute, H5T_NATIVE_INT64, &value) < 0 || value < 0) {
      bad(fmt::format("attribute {} is not one non-negative integer", name));
    }
    return static_cast<uint64_t>(value);
  }

  std::string text(const char* name) {
    if (!has_attribute(name)) return {};
    const Handle attribute(H5Aopen(file_, name, H5P_DEFAULT), H5Aclose);
    const Handle type(attribute.valid() ? H5Aget_type(attribute) : -1, H5Tclose);
    const Handle space(attribute.valid() ? H5Aget_space(attribute) : -1, H5Sclose);
    if (!type.valid() || !space.valid() || H5Tget_class(type) != H5T_STRING ||
        H5Sget_simple_extent_npoints(space) != 1) {
      bad(fmt::format("attribute {} is not one string", name));
    }
    std::string value;
    if (H5Tis_variable_str(type) > 0) {
      char* words = nullptr;
      if (H5Aread(attribute, type, &words) < 0) bad(fmt::format("attribute {}: {}", name, last_error()));
      if (words != nullptr) value.assign(words, strnlen(words, kMaxStringAttribute + 1));
      H5Dvlen_reclaim(type, space, H5P_DEFAULT, &words);
    } else {
      const size_t size = H5Tget_size(type);
      if (size > kMaxStringAttribute)
        bad(fmt::format("attribute {} is longer than {} bytes", name, kMaxStringAttribute));
      std::vector<char> words(size + 1, '\0');
      if (H5Aread(attribute, type, words.data()) < 0) bad(fmt::format("attribute {}: {}", name, last_error()));
      value = words.data();
    }
    if (value.size() > kMaxStringAttribute)
      bad(fmt::format("attribute {} is longer than {} bytes", name, kMaxStringAttribute));
    return value;
  }

  [[noreturn]] void bad(const std::string& reason) {
    fail(ExitCode::data, "token shard {}: {}; make the shard again with 't6 tokenize'", driver_.file.path().string(),
         reason);
  }

 private:
  bool has_attribute(const char* name) {
    const htri_t found = H5Aexists(file_, name);
    if (found < 0) bad(fmt::format("cannot be searched for attribute {} ({})", name, last_error()));
    return found > 0;
  }

  hdf5::DriverState driver_;
  uint64_t file_size_;
  Handle file_;
};

// The datasets, unwritten, and the attributes.
void write_layout(hdf5::Session& session, Hdf5Tokens& layout) {
  const auto check = [&](bool ok, const char* what, const char* name) { session.check(ok, what, name); };
  Handle& file = session.file;
  const Handle create(H5Pcreate(H5P_FILE_CREATE), H5Pclose);
  check(H5Pset_obj_track_times(create, false) >= 0, "describe", "the root");
  file =
      Handle(H5Fcreate(session.driver.file.path().c_str(), H5F_ACC_TRUNC, create, hdf5::driver_access(session.driver)),
             H5Fclose);
  check(file.valid(), "create", "the root");

  const auto make_dataset = [&](const char* name, hid_t type, uint64_t count) -> uint64_t {
    const hsize_t size = count;
    const Handle space(H5Screate_simple(1, &size, nullptr), H5Sclose);
    const Handle properties(H5Pcreate(H5P_DATASET_CREATE), H5Pclose);
    check(space.valid() && properties.valid(), "describe", name);
    H5Pset_layout(properties, H5D_CONTIGUOUS);
    H5Pset_alloc_time(properties, H5D_ALLOC_TIME_EARLY);
    H5Pset_fill_time(properties, H5D_FILL_TIME_NEVER);
    H5Pset_obj_track_times(properties, false);
    Handle object(H5Dcreate2(file, name, type, space, H5P_DEFAULT, properties, H5P_DEFAULT), H5Dclose);
    check(object.valid(), "create", name);
    const haddr_t offset = count > 0 ? H5Dget_offset(object) : 0;
    check(offset != HADDR_UNDEF && object.close(), "place", name);
    return offset;
  };
  layout.tokens_offset = make_dataset("tokens", layout.width == 2 ? H5T_STD_U16LE : H5T_STD_U32LE, layout.token_count);
  layout.documents_offset = make_dataset("doc_offsets", H5T_STD_U64LE, layout.document_count);

  const Handle scalar(H5Screate(H5S_SCALAR), H5Sclose);
  const auto put_integer = [&](const char* name, uint64_t value) {
    const Handle attribute(H5Acreate2(file, name, H5T_STD_U64LE, scalar, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    check(attribute.valid() && H5Awrite(attribute, H5T_NATIVE_UINT64, &value) >= 0, "write", name);
  };
  const auto put_text = [&](const char* name, std::string value) {
    if (value.size() > kMaxStringAttribute - 1) value.resize(kMaxStringAttribute - 1);
    const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    check(type.valid() && H5Tset_size(type, value.size() + 1) >= 0 && H5Tset_cset(type, H5T_CSET_UTF8) >= 0, "describe",
          name);
    const Handle attribute(H5Acreate2(file, name, type, scalar, H5P_DEFAULT, H5P_DEFAULT), H5Aclose);
    check(attribute.valid() && H5Awrite(attribute, type, value.c_str()) >= 0, "write", name);
  };
  if (layout.vocabulary) put_integer("vocabulary", *layout.vocabulary);
  if (layout.end_of_text) put_integer("end_of_text", *layout.end_of_text);
  put_integer("token_count", layout.token_count);
  put_integer("document_count", layout.document_count);
  put_text("tokenizer_hash", layout.tokenizer_hash);
  put_text("source", layout.source);
}

Hdf5Tokens read_hdf5_tokens(const io::File& file) {
  Reader reader(file);
  Hdf5Tokens layout;
  const Reader::Dataset tokens = reader.dataset("tokens", H5T_STD_U16LE, H5T_STD_U32LE, "uint16 or uint32");
  layout.tokens_offset = tokens.offset;
  layout.token_count = tokens.count;
  layout.width = tokens.width;
  if (reader.has_link("doc_offsets")) {
    const Reader::Dataset documents = reader.dataset("doc_offsets", H5T_STD_U64LE, H5T_STD_U64LE, "uint64");
    layout.documents_offset = documents.offset;
    layout.document_count = documents.count;
  }
  layout.vocabulary = reader.integer("vocabulary");
  layout.end_of_text = reader.integer("end_of_text");
  layout.tokenizer_hash = reader.text("tokenizer_hash");
  layout.source = reader.text("source");
  const auto expect_count = [&](const char* name, uint64_t actual) {
    const std::optional<uint64_t> stated = reader.integer(name);
    if (stated && *stated != actual) {
      reader.bad(fmt::format("attribute {} says {}, but the dataset has {}", name, *stated, actual));
    }
  };
  expect_count("token_count", layout.token_count);
  expect_count("document_count", layout.document_count);
  return layout;
}

}  // namespace

std::string to_told(const Hdf5Tokens& layout) {
  nlohmann::json json{{"tokens", {layout.tokens_offset, layout.token_count, layout.width}},
                      {"documents", {layout.documents_offset, layout.document_count}},
                      {"tokenizer_hash", layout.tokenizer_hash},
                      {"source", layout.source}};
  if (layout.vocabulary) json["vocabulary"] = *layout.vocabulary;
  if (layout.end_of_text) json["end_of_text"] = *layout.end_of_text;
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

std::optional<Hdf5Tokens> parse_told(const std::string& text, uint64_t file_size) {
  Hdf5Tokens layout;
  const std::optional<nlohmann::json> told = parse_told_json(text);
  if (!told) return std::nullopt;
  try {
    const nlohmann::json& json = *told;
    const nlohmann::json &tokens = json.at("tokens"), &documents = json.at("documents");
    layout = {.tokens_offset = tokens.at(0),
              .token_count = tokens.at(1),
              .width = tokens.at(2),
              .documents_offset = documents.at(0),
              .document_count = documents.at(1),
              .vocabulary = {},
              .end_of_text = {},
              .tokenizer_hash = json.at("tokenizer_hash"),
              .source = json.at("source")};
    if (json.contains("vocabulary")) layout.vocabulary = json["vocabulary"].get<uint64_t>();
    if (json.contains("end_of_text")) layout.end_of_text = json["end_of_text"].get<uint64_t>();
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
  const auto inside = [&](uint64_t offset, uint64_t count, uint64_t width) {
    return offset <= file_size && count <= (file_size - offset) / width;
  };
  if (layout.width != 2 && layout.width != 4) return std::nullopt;
  if (!inside(layout.tokens_offset, layout.token_count, layout.width)) return std::nullopt;
  if (!inside(layout.documents_offset, layout.document_count, 8)) return std::nullopt;
  return layout;
}

Hdf5Tokens open_hdf5_tokens(const io::File& file) {
  // Started, and in no other thread's hands, before the process forks.
  const hdf5::Guard guarded = hdf5::guard();
  hdf5::start();
  const ChildResult read = run_in_child([&] { return to_told(read_hdf5_tokens(file)); },
                                        {.memory_bytes = kReaderMemory, .processor_seconds = 1});
  if (!read.failure.empty()) {
    fail(ExitCode::data,
         "token shard {}: the HDF5 library could not read it; tried in a process of its own, {}. It is damaged, or "
         "made to do harm; make the shard again with 't6 tokenize'",
         file.path().string(), read.failure);
  }
  const std::optional<Hdf5Tokens> layout = parse_told(read.text, file.size());
  if (!layout) {
    fail(ExitCode::data,
         "token shard {}: what the HDF5 library reads in it contradicts itself; make the shard again "
         "with 't6 tokenize'",
         file.path().string());
  }
  return *layout;
}

io::File create_hdf5_tokens(const fs::path& path, Hdf5Tokens& layout) {
  hdf5::start();
  hdf5::Session session(io::File::create_new(path), true, ExitCode::io);
  try {
    write_layout(session, layout);
    session.finish(true);
  } catch (...) {
    session.finish(false);
    throw;
  }
  return std::move(session.driver.file);
}

}  // namespace t6::data
