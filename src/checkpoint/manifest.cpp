#include "checkpoint/manifest.h"

#include <algorithm>
#include <initializer_list>
#include <limits>
#include <optional>
#include <set>
#include <span>

#include "base/error.h"
#include "base/io.h"
#include "checkpoint/hdf5_writer.h"
#include "checkpoint/limits.h"

namespace t6::checkpoint {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "t6-checkpoint";
constexpr int64_t kVersion = 2;
constexpr int64_t kOldestVersion = 1;  // one part a tensor, in the file of its rank
constexpr int kMaxDepth = 16;
constexpr int kMaxWorld = 65536;
constexpr std::string_view kHashKey = "\"manifest_xxh3\": \"";
constexpr std::string_view kTail = "\"\n}\n";
constexpr size_t kHashDigits = 32;
constexpr size_t kMaxTensorName = 230;  // leaves room for '@' and a beginning
constexpr int64_t kMaxExtent = int64_t{1} << 60;

std::string hash_of(std::string_view text) {
  return io::hash_bytes(std::as_bytes(std::span(text)));
}

std::optional<DType> dtype_named(std::string_view name) {
  for (DType dtype : {DType::f32, DType::bf16, DType::f64, DType::i32}) {
    if (name == name_of(dtype)) return dtype;
  }
  return std::nullopt;
}

// Reads the parts of one manifest; every complaint names it.
class Parser {
 public:
  explicit Parser(const std::string& where) : where_(where) {}

  Manifest parse(std::string_view text) {
    check_hash(text);
    const json root = parse_json(text);
    require_keys(root, "the manifest",
                 {"facts", "files", "format", "manifest_xxh3", "scalars", "step", "tensors", "version", "world"});
    if (get_string(root, "format") != kFormat) bad("expected format \"{}\"", kFormat);
    const int64_t version = get_integer(root, "version", 0, std::numeric_limits<int64_t>::max());
    if (version < kOldestVersion || version > kVersion) {
      bad("format version {} is not known to this program, which reads {} to {}; use the t6 that wrote it", version,
          kOldestVersion, kVersion);
    }
    Manifest manifest;
    manifest.xxh3 = get_string(root, "manifest_xxh3");
    manifest.step = get_integer(root, "step", 0, std::numeric_limits<int64_t>::max());
    manifest.world = static_cast<int>(get_integer(root, "world", 1, kMaxWorld));
    manifest.scalars = get_object(root, "scalars");
    manifest.facts = get_object(root, "facts");
    for (const json& file : get_array(root, "files")) manifest.files.push_back(parse_file(file, manifest.files.size()));
    if (manifest.files.size() != static_cast<size_t>(manifest.world)) {
      bad("expected {} files, one a rank, got {}", manifest.world, manifest.files.size());
    }
    parse_tensors(root, version, manifest);
    return manifest;
  }

 private:
  template <class... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    fail(ExitCode::checkpoint, "{}: {}", where_, fmt::format(format, std::forward<Args>(args)...));
  }

  void check_hash(std::string_view text) const {
    if (text.size() > kMaxManifestBytes) bad("larger than {} bytes", kMaxManifestBytes);
    const size_t ending = kHashKey.size() + kHashDigits + kTail.size();
    if (text.size() < ending) bad("cut short at {} bytes", text.size());
    const size_t begin = text.size() - ending;
    const std::string_view digits = text.substr(begin + kHashKey.size(), kHashDigits);
    if (text.substr(begin, kHashKey.size()) != kHashKey || text.substr(text.size() - kTail.size()) != kTail) {
      bad("does not end with its own hash: cut short or changed");
    }
    if (digits != hash_of(text.substr(0, begin))) bad("its own hash does not match: changed after it was written");
  }

  json parse_json(std::string_view text) const {
    size_t values = 0;
    std::vector<std::set<std::string>> keys;  // of the objects that are open
    const auto watch = [&](int depth, json::parse_event_t event, json& value) {
      if (depth > kMaxDepth) bad("nested deeper than {}", kMaxDepth);
      if (++values > kMaxManifestValues) bad("more than {} values", kMaxManifestValues);
      if (event == json::parse_event_t::object_start) keys.emplace_back();
      if (event == json::parse_event_t::object_end) keys.pop_back();
      if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
        bad("key {} comes twice", value.dump());
      }
      return true;
    };
    try {
      return json::parse(text.begin(), text.end(), watch);
    } catch (const json::exception& error) {
      bad("not valid JSON: {}", error.what());
    }
  }

  void require_keys(const json& object, const char* what, std::initializer_list<const char*> expected) const {
    if (!object.is_object()) bad("{}: expected an object", what);
    for (const char* key : expected) {
      if (!object.contains(key)) bad("{}: {} is missing", what, key);
    }
    for (const auto& item : object.items()) {
      const bool known = std::any_of(expected.begin(), expected.end(), [&](const char* k) { return item.key() == k; });
      if (!known) bad("{}: unknown key \"{}\"", what, item.key());
    }
  }

  int64_t get_integer(const json& object, const char* key, int64_t least, int64_t most) const {
    return integer(object.at(key), key, least, most);
  }
  int64_t integer(const json& value, const char* key, int64_t least, int64_t most) const {
    const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(most) &&
                      static_cast<int64_t>(value.get<uint64_t>()) >= least;
    if (!fits) bad("{}: expected an integer from {} to {}", key, least, most);
    return static_cast<int64_t>(value.get<uint64_t>());
  }
  std::string get_string(const json& object, const char* key) const {
    const json& value = object.at(key);
    if (!value.is_string()) bad("{}: expected a string", key);
    return value.get<std::string>();
  }
  std::string get_hash(const json& object) const { return hash(object.at("xxh3")); }
  std::string hash(const json& value) const {
    const std::string digits = value.is_string() ? value.get<std::string>() : value.dump();
    if (digits.size() != kHashDigits || digits.find_first_not_of("0123456789abcdef") != std::string::npos) {
      bad("xxh3: expected {} hexadecimal digits, got \"{}\"", kHashDigits, digits);
    }
    return digits;
  }
  const json& get_array(const json& object, const char* key) const {
    if (!object.at(key).is_array()) bad("{}: expected a list", key);
    return object.at(key);
  }
  const json& get_object(const json& object, const char* key) const {
    if (!object.at(key).is_object()) bad("{}: expected an object", key);
    return object.at(key);
  }

  ManifestFile parse_file(const json& object, size_t rank) const {
    require_keys(object, "a file", {"bytes", "name", "xxh3"});
    ManifestFile file;
    file.name = get_string(object, "name");
    const std::string expected = rank_file_name(static_cast<int>(rank));
    if (file.name != expected) bad("file {}: expected the name {}, got \"{}\"", rank, expected, file.name);
    file.bytes = static_cast<uint64_t>(get_integer(object, "bytes", 1, int64_t{1} << 60));
    file.xxh3 = get_hash(object);
    return file;
  }

  void parse_tensors(const json& root, int64_t version, Manifest& manifest) const {
    std::set<std::string> names;
    std::vector<uint64_t> left;  // bytes of each file not yet taken by its parts, which are stored uncompressed
    for (const ManifestFile& file : manifest.files) left.push_back(file.bytes);
    for (const json& object : get_array(root, "tensors")) {
      if (version == 1) {
        require_keys(object, "a tensor", {"dtype", "name", "rank", "shape", "xxh3"});
      } else {
        require_keys(object, "a tensor", {"dtype", "name", "parts", "shape"});
      }
      ManifestTensor tensor;
      tensor.name = get_string(object, "name");
      if (!is_valid_tensor_name(tensor.name)) bad("\"{}\" is not a valid tensor name", tensor.name);
      if (!names.insert(tensor.name).second) bad("tensor {} comes twice", tensor.name);
      const std::optional<DType> dtype = dtype_named(get_string(object, "dtype"));
      if (!dtype) bad("{}: dtype \"{}\" is not one of f32, bf16, f64, i32", tensor.name, get_string(object, "dtype"));
      tensor.dtype = *dtype;
      tensor.shape = parse_shape(object, tensor, manifest.bytes());
      if (version == 1) {
        const int rank = static_cast<int>(get_integer(object, "rank", 0, manifest.world - 1));
        tensor.parts.push_back({rank, 0, tensor.shape.numel(), get_hash(object)});
      } else {
        for (const json& part : get_array(object, "parts")) tensor.parts.push_back(parse_part(part, manifest.world));
      }
      for (const ManifestPart& part : tensor.parts) {
        uint64_t& room = left[static_cast<size_t>(part.rank)];
        uint64_t bytes = 0;
        const bool too_much = __builtin_mul_overflow(static_cast<uint64_t>(part.count), size_of(*dtype), &bytes);
        if (too_much || bytes > room) bad("{}: is larger than its file", tensor.name);
        room -= bytes;
      }
      require_cover(tensor);
      manifest.tensors.push_back(std::move(tensor));
    }
  }

  // `most`: bytes of all files.
  Shape parse_shape(const json& object, const ManifestTensor& tensor, uint64_t most) const {
    std::vector<int64_t> dims;
    uint64_t bytes = size_of(tensor.dtype);
    for (const json& extent : get_array(object, "shape")) {
      dims.push_back(integer(extent, "shape", 1, kMaxExtent));
      if (dims.size() > Shape::kMaxRank) bad("{}: more than {} dimensions", tensor.name, Shape::kMaxRank);
      const bool too_much = __builtin_mul_overflow(bytes, static_cast<uint64_t>(dims.back()), &bytes);
      if (too_much || bytes > most) bad("{}: is larger than its files", tensor.name);
    }
    return Shape(dims);
  }

  // [rank, begin, count, xxh3]: a checkpoint of many ranks has very many.
  ManifestPart parse_part(const json& value, int world) const {
    if (!value.is_array() || value.size() != 4) bad("a part: expected [rank, begin, count, xxh3]");
    ManifestPart part;
    part.rank = static_cast<int>(integer(value[0], "rank", 0, world - 1));
    part.begin = integer(value[1], "begin", 0, kMaxExtent);
    part.count = integer(value[2], "count", 1, kMaxExtent);
    part.xxh3 = hash(value[3]);
    return part;
  }

  void require_cover(const ManifestTensor& tensor) const {
    int64_t covered = 0;
    for (const ManifestPart& part : tensor.parts) {
      if (part.begin > covered) bad("{}: elements [{}, {}) are in no part", tensor.name, covered, part.begin);
      if (part.begin < covered) {
        bad("{}: elements from {} are in more than one part, or the parts are not in order", tensor.name, part.begin);
      }
      covered += part.count;
    }
    const int64_t size = tensor.shape.numel();
    if (covered < size) bad("{}: elements [{}, {}) are in no part", tensor.name, covered, size);
    if (covered > size) bad("{}: has {} elements, and its parts go up to {}", tensor.name, size, covered);
  }

  const std::string& where_;
};

}  // namespace

std::string rank_file_name(int rank) {
  return fmt::format("rank-{:05}.h5", rank);
}

bool is_valid_tensor_name(std::string_view name) {
  return is_valid_name(name) && name.size() <= kMaxTensorName && name.find('@') == std::string_view::npos;
}

std::string dataset_name(const std::string& tensor, const Shape& shape, int64_t begin, int64_t count) {
  return count == shape.numel() ? tensor : fmt::format("{}@{}", tensor, begin);
}

Shape dataset_shape(const Shape& shape, int64_t count) {
  return count == shape.numel() ? shape : Shape{count};
}

uint64_t Manifest::bytes() const {
  uint64_t sum = 0;
  for (const ManifestFile& file : files) sum += file.bytes;
  return sum;
}

std::string to_text(const Manifest& manifest) {
  const auto dump = [](const json& value) {
    try {
      return value.dump();
    } catch (const json::exception& error) {
      fail(ExitCode::internal, "[checkpoint] expected scalars and facts in UTF-8: {}", error.what());
    }
  };
  std::string text = fmt::format(
      "{{\n\"format\": \"{}\",\n\"version\": {},\n\"step\": {},\n\"world\": {},\n\"scalars\": {},\n\"facts\": {},\n",
      kFormat, kVersion, manifest.step, manifest.world, dump(manifest.scalars), dump(manifest.facts));
  // One line each, for grep and diff.
  const auto append_list = [&text](const char* name, const auto& items, auto&& line) {
    text += fmt::format("\"{}\": [", name);
    const char* separator = "\n";
    for (const auto& item : items) {
      text += separator + line(item).dump();
      separator = ",\n";
    }
    text += "\n],\n";
  };
  append_list("files", manifest.files, [](const ManifestFile& file) {
    return json{{"name", file.name}, {"bytes", file.bytes}, {"xxh3", file.xxh3}};
  });
  append_list("tensors", manifest.tensors, [](const ManifestTensor& tensor) {
    json parts = json::array();
    for (const ManifestPart& part : tensor.parts) parts.push_back({part.rank, part.begin, part.count, part.xxh3});
    return json{{"name", tensor.name},
                {"dtype", name_of(tensor.dtype)},
                {"shape", std::vector<int64_t>(tensor.shape.begin(), tensor.shape.end())},
                {"parts", parts}};
  });
  const std::string hash = hash_of(text);
  text += kHashKey;
  text += hash;
  text += kTail;
  try {
    const Manifest back = parse_manifest(text, kManifestName);
    T6_CHECK(back.scalars == manifest.scalars && back.facts == manifest.facts,
             "[checkpoint] scalars or facts do not survive JSON: are all numbers finite?");
  } catch (const Error& error) {
    fail(ExitCode::internal, "[checkpoint] the manifest could not be read back: {}", error.what());
  }
  return text;
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  return Parser(where).parse(text);
}

}  // namespace t6::checkpoint
