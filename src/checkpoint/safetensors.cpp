#include "checkpoint/safetensors.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <span>

#include "base/error.h"
#include "base/strict_json.h"
#include "checkpoint/foreign_file.h"

namespace t6::checkpoint {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "numbers are written as they lie in memory");

constexpr uint64_t kPrefixBytes = 8;
constexpr size_t kMaxNameBytes = 512;
constexpr uint64_t kMaxExtent = uint64_t{1} << 40;
constexpr JsonLimits kHeaderLimits{.depth = 4, .values = 400'000, .token_bytes = 4096, .bytes = kMaxSafetensorsHeader};

std::optional<StoredType> type_named(std::string_view name) {
  for (const StoredType type : {StoredType::f32, StoredType::bf16, StoredType::f16}) {
    if (name == name_of(type)) return type;
  }
  return std::nullopt;
}

// Reads one header; every complaint names file and tensor.
class HeaderParser {
 public:
  HeaderParser(uint64_t data_bytes, const std::string& where) : data_bytes_(data_bytes), where_(where) {}

  std::vector<StoredTensor> parse(std::string_view text) const {
    const json header = parse_strict_json(text, where_, ExitCode::checkpoint, kHeaderLimits);
    if (!header.is_object()) bad("expected the header to be an object");
    std::vector<StoredTensor> tensors;
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        check_metadata(value);
      } else {
        tensors.push_back(parse_tensor(name, value));
      }
    }
    if (tensors.empty()) bad("it holds no tensors");
    std::sort(tensors.begin(), tensors.end(),
              [](const StoredTensor& a, const StoredTensor& b) { return a.begin < b.begin; });
    uint64_t end = 0;
    for (const StoredTensor& tensor : tensors) {
      if (tensor.begin != end) {
        bad("tensor {}: expected to begin at byte {}, where the one before ends, got {}: they {}", tensor.name, end,
            tensor.begin, tensor.begin < end ? "overlap" : "leave a gap");
      }
      end = tensor.end;
    }
    if (end != data_bytes_) bad("expected {} bytes of data, as the header says, got {}", end, data_bytes_);
    return tensors;
  }

 private:
  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ExitCode::checkpoint, "{}: {}", where_, fmt::format(format, std::forward<Args>(args)...));
  }

  void check_metadata(const json& metadata) const {
    if (!metadata.is_object()) bad("__metadata__: expected an object");
    for (const auto& item : metadata.items()) {
      if (!item.value().is_string()) bad("__metadata__: {}: expected a string", shown(item.key()));
    }
  }

  uint64_t integer(const std::string& name, const char* what, const json& value, uint64_t most) const {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > most) {
      bad("tensor {}: {}: expected an integer from 0 to {}, got {}", name, what, most, shown(value));
    }
    return value.get<uint64_t>();
  }

  StoredTensor parse_tensor(const std::string& name, const json& value) const {
    require_tensor_name(name, where_);
    if (!value.is_object() || value.size() != 3 || !value.contains("dtype") || !value.contains("shape") ||
        !value.contains("data_offsets")) {
      bad("tensor {}: expected dtype, shape and data_offsets", name);
    }
    StoredTensor tensor;
    tensor.name = name;
    const json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];
    const std::optional<StoredType> type = dtype.is_string() ? type_named(dtype.get<std::string>()) : std::nullopt;
    if (!type) bad("tensor {}: expected a dtype of F32, BF16 and F16, got {}", name, shown(dtype));
    tensor.type = *type;
    if (!shape.is_array() || shape.size() > Shape::kMaxRank) {
      bad("tensor {}: expected a shape of at most {} dimensions", name, Shape::kMaxRank);
    }
    uint64_t bytes = size_of(*type);
    std::vector<int64_t> extents;
    for (const json& extent : shape) {
      const uint64_t count = integer(name, "shape", extent, kMaxExtent);
      if (count == 0) bad("tensor {}: has an extent of 0", name);
      if (__builtin_mul_overflow(bytes, count, &bytes) || bytes > data_bytes_) {
        bad("tensor {}: its shape asks for more bytes than the file has", name);
      }
      extents.push_back(static_cast<int64_t>(count));
    }
    tensor.shape = Shape(extents);
    if (!offsets.is_array() || offsets.size() != 2) bad("tensor {}: data_offsets: expected [begin, end]", name);
    tensor.begin = integer(name, "data_offsets", offsets[0], data_bytes_);
    tensor.end = integer(name, "data_offsets", offsets[1], data_bytes_);
    if (tensor.end < tensor.begin || tensor.end - tensor.begin != bytes) {
      bad("tensor {}: expected {} bytes for {} {}, got data_offsets [{}, {}]", name, bytes, name_of(*type),
          to_string(tensor.shape), tensor.begin, tensor.end);
    }
    return tensor;
  }

  uint64_t data_bytes_;
  const std::string& where_;
};

io::File open_existing(const fs::path& path) {
  require_plain_file(path);
  return io::File::open_read(path);
}

// Exactly: every f16 is an f32.
float from_f16(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16, exponent = (bits >> 10) & 0x1F, fraction = bits & 0x3FF;
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 0xFF : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
}

std::string header_text(const std::vector<StoredTensor>& tensors) {
  std::string text = R"({"__metadata__":{"format":"pt"})";
  for (const StoredTensor& tensor : tensors) {
    text += fmt::format(R"(,"{}":{{"dtype":"{}","shape":[)", tensor.name, name_of(tensor.type));
    for (int i = 0; i < tensor.shape.rank(); ++i) text += fmt::format("{}{}", i == 0 ? "" : ",", tensor.shape[i]);
    text += fmt::format(R"(],"data_offsets":[{},{}]}})", tensor.begin, tensor.end);
  }
  text += "}";
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

std::vector<StoredTensor> placed(std::vector<StoredTensor> tensors) {
  uint64_t end = 0;
  for (StoredTensor& tensor : tensors) {
    tensor.begin = end;
    tensor.end = end += static_cast<uint64_t>(tensor.shape.numel()) * size_of(tensor.type);
  }
  return tensors;
}

}  // namespace

std::string_view name_of(StoredType type) {
  return type == StoredType::f32 ? "F32" : type == StoredType::bf16 ? "BF16" : "F16";
}

void require_tensor_name(const std::string& name, const std::string& where) {
  const bool printable = std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c <= '~'; });
  if (name.empty() || name.size() > kMaxNameBytes || !printable) {
    fail(ExitCode::checkpoint, "{}: {} is no name of a tensor", where, shown(name));
  }
}

std::vector<StoredTensor> parse_safetensors_header(std::string_view json, uint64_t data_bytes,
                                                   const std::string& where) {
  return HeaderParser(data_bytes, where).parse(json);
}

SafetensorsReader::SafetensorsReader(const fs::path& path) : file_(open_existing(path)) {
  const std::string where = path.string();
  const uint64_t size = file_.size();
  uint64_t header = 0;
  if (size < kPrefixBytes) fail(ExitCode::checkpoint, "{}: too short for a safetensors file: {} bytes", where, size);
  file_.read_at(std::as_writable_bytes(std::span(&header, 1)), 0);
  if (header > kMaxSafetensorsHeader || header > size - kPrefixBytes) {
    fail(ExitCode::checkpoint, "{}: no safetensors file: its header would have {} bytes, at most {} are possible",
         where, header, std::min(kMaxSafetensorsHeader, size - kPrefixBytes));
  }
  std::string text(header, '\0');
  file_.read_at(std::as_writable_bytes(std::span(text.data(), text.size())), kPrefixBytes);
  data_begin_ = kPrefixBytes + header;
  tensors_ = parse_safetensors_header(text, size - data_begin_, where);
}

Tensor SafetensorsReader::read(const StoredTensor& tensor) const {
  const Tensor values = Tensor::empty(tensor.shape, DType::f32);
  auto* out = values.data<float>();
  const auto count = static_cast<size_t>(values.numel());
  if (tensor.type == StoredType::f32) {
    file_.read_at(std::as_writable_bytes(std::span(out, count)), data_begin_ + tensor.begin);
  } else {
    // A block at a time, so that the narrow numbers need no second tensor.
    std::vector<uint16_t> block(std::min<size_t>(count, size_t{1} << 18));
    for (size_t done = 0; done < count;) {
      const std::span<uint16_t> part = std::span(block).first(std::min(block.size(), count - done));
      file_.read_at(std::as_writable_bytes(part), data_begin_ + tensor.begin + 2 * done);
      for (const uint16_t bits : part) {
        out[done++] = tensor.type == StoredType::f16 ? from_f16(bits) : std::bit_cast<float>(uint32_t{bits} << 16);
      }
    }
  }
  for (size_t i = 0; i < count; ++i) {
    if (!std::isfinite(out[i])) {
      fail(ExitCode::checkpoint, "{}: tensor {}: number {} is {}, not finite", path().string(), tensor.name, i, out[i]);
    }
  }
  return values;
}

SafetensorsWriter::SafetensorsWriter(const fs::path& path, std::vector<StoredTensor> tensors)
    : file_(io::File::create_new(path)), tensors_(placed(std::move(tensors))), written_(tensors_.size()) {
  const std::string header = header_text(tensors_);
  T6_CHECK(header.size() <= kMaxSafetensorsHeader, "[safetensors] a header of {} bytes", header.size());
  const uint64_t bytes = header.size();
  file_.write_all(std::as_bytes(std::span(&bytes, 1)));
  file_.write_all(header);
  data_begin_ = kPrefixBytes + bytes;
}

void SafetensorsWriter::write(size_t i, const Tensor& values) {
  const StoredTensor& tensor = tensors_.at(i);
  T6_CHECK(values.dtype() == DType::f32 && values.numel() == tensor.shape.numel() && !written_[i],
           "[safetensors] expected {} once as {} numbers in f32, got {} in {}", tensor.name, tensor.shape.numel(),
           values.numel(), t6::name_of(values.dtype()));
  written_[i] = true;
  const std::span<const float> from(values.data<float>(), static_cast<size_t>(values.numel()));
  uint64_t at = data_begin_ + tensor.begin;
  if (tensor.type == StoredType::f32) {
    file_.write_at(std::as_bytes(from), at);
    return;
  }
  T6_CHECK(tensor.type == StoredType::bf16, "[safetensors] f16 is not written");
  std::vector<bfloat16> block;
  for (size_t done = 0; done < from.size(); done += block.size()) {
    const std::span<const float> part = from.subspan(done, std::min<size_t>(from.size() - done, size_t{1} << 18));
    block.assign(part.size(), bfloat16());
    for (size_t j = 0; j < part.size(); ++j) store(block[j], part[j]);
    file_.write_at(std::as_bytes(std::span(block)), at);
    at += 2 * block.size();
  }
}

void SafetensorsWriter::finish() {
  for (size_t i = 0; i < written_.size(); ++i) {
    T6_CHECK(written_[i], "[safetensors] {} was not written", tensors_[i].name);
  }
  file_.sync();
  file_.close();
}

uint64_t SafetensorsWriter::file_bytes(const std::vector<StoredTensor>& tensors) {
  const std::vector<StoredTensor> all = placed(tensors);
  return kPrefixBytes + header_text(all).size() + (all.empty() ? 0 : all.back().end);
}

}  // namespace t6::checkpoint
