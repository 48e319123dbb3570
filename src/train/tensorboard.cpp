#include "train/tensorboard.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cmath>
#include <vector>

#include "base/clock.h"
#include "base/io.h"

namespace t6::train {
namespace {

// Protocol buffer wire types: https://protobuf.dev/programming-guides/encoding/
enum Wire : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

template <class T>
void put_little_endian(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out.push_back(static_cast<char>(value >> (8 * i)));
}

void put_key(std::string& out, uint32_t field, Wire wire) {
  put_varint(out, field << 3 | wire);
}

void put_integer(std::string& out, uint32_t field, int64_t value) {
  put_key(out, field, kVarint);
  put_varint(out, static_cast<uint64_t>(value));
}

void put_double(std::string& out, uint32_t field, double value) {
  put_key(out, field, kFixed64);
  put_little_endian(out, std::bit_cast<uint64_t>(value));
}

void put_float(std::string& out, uint32_t field, float value) {
  put_key(out, field, kFixed32);
  put_little_endian(out, std::bit_cast<uint32_t>(value));
}

// A string, bytes or an embedded message.
void put_bytes(std::string& out, uint32_t field, std::string_view value) {
  put_key(out, field, kBytes);
  put_varint(out, value.size());
  out.append(value);
}

// TensorFlow's masking of a CRC that is itself stored beside data with CRCs (tensorflow/core/lib/hash/crc32c.h).
uint32_t masked_crc(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xA282EAD8U;
}

std::string tfrecord(std::string_view payload) {
  std::string record;
  put_little_endian(record, uint64_t{payload.size()});
  put_little_endian(record, masked_crc(record));
  record.append(payload);
  put_little_endian(record, masked_crc(payload));
  return record;
}

// events.out.tfevents.<seconds>.<host>.<process>.<n>: TensorBoard reads the files of a folder in the order of their
// names, so a later start must have a later name, even within one second.
std::filesystem::path new_file(const std::filesystem::path& folder) {
  io::make_directories(folder);
  struct utsname system {};
  const std::string host = ::uname(&system) == 0 ? system.nodename : "localhost";
  auto seconds = static_cast<int64_t>(unix_seconds());
  constexpr std::string_view kStem = "events.out.tfevents.";
  for (const std::string& name : io::list_folder(folder)) {
    if (name.rfind(kStem, 0) != 0) continue;
    // atoll: a foreign name without a number is 0, and nothing to be later than.
    const int64_t other = std::atoll(name.c_str() + kStem.size());
    if (other < int64_t{1} << 40) seconds = std::max(seconds, other + 1);
  }
  return folder / fmt::format("{}{:010}.{}.{}.0", kStem, seconds, host, ::getpid());
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  static const std::array<uint32_t, 256> kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ ((value & 1) != 0 ? 0x82F63B78U : 0U);
      table[i] = value;
    }
    return table;
  }();
  uint32_t crc = ~0U;
  for (const char byte : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint8_t>(byte)) & 0xFF];
  return ~crc;
}

// Event: wall_time = 1 (double), step = 2 (int64), file_version = 3 (string), summary = 5, session_log = 7.
void TensorBoardWriter::event(const std::optional<int64_t>& step, std::string_view content) {
  std::string event;
  put_double(event, 1, unix_seconds());
  if (step) put_integer(event, 2, *step);
  event.append(content);
  file_.append(tfrecord(event));
}

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& folder, std::optional<int64_t> resumed_step)
    : file_(new_file(folder)) {
  std::string version;
  put_bytes(version, 3, "brain.Event:2");
  event(std::nullopt, version);
  // SessionLog.status = 1, START = 1: readers forget the points at this step and later.
  std::string status, log;
  put_integer(status, 1, 1);
  put_bytes(log, 7, status);
  event(resumed_step ? *resumed_step + 1 : 0, log);
}

// Summary.value = 1; Value: tag = 1, simple_value = 2, tensor = 8, metadata = 9.
void TensorBoardWriter::scalars(int64_t step, std::span<const Scalar> scalars) {
  if (scalars.empty()) return;
  std::string summary;
  for (const Scalar& scalar : scalars) {
    std::string value;
    put_bytes(value, 1, scalar.tag);
    put_float(value, 2, static_cast<float>(scalar.value));
    put_bytes(summary, 1, value);
  }
  std::string content;
  put_bytes(content, 5, summary);
  event(step, content);
}

void TensorBoardWriter::text(int64_t step, std::string_view tag, std::string_view text) {
  // TensorProto: dtype = 1 (DT_STRING = 7), tensor_shape = 2 (dim = 2 {size = 1}), string_val = 8: one string in a
  // vector.
  std::string dim, shape, tensor;
  put_integer(dim, 1, 1);
  put_bytes(shape, 2, dim);
  put_integer(tensor, 1, 7);
  put_bytes(tensor, 2, shape);
  put_bytes(tensor, 8, text);
  // SummaryMetadata: plugin_data = 1 {plugin_name = 1}, data_class = 4 (DATA_CLASS_TENSOR = 2).
  std::string plugin, metadata;
  put_bytes(plugin, 1, "text");
  put_bytes(metadata, 1, plugin);
  put_integer(metadata, 4, 2);
  std::string value, summary, content;
  put_bytes(value, 1, tag);
  put_bytes(value, 8, tensor);
  put_bytes(value, 9, metadata);
  put_bytes(summary, 1, value);
  put_bytes(content, 5, summary);
  event(step, content);
}

void TensorBoardWriter::train(const StepMetrics& m) {
  std::vector<Scalar> list{{"train/loss", m.loss}, {"train/lr", m.lr}};
  if (m.grad_norm) list.push_back({"train/grad_norm", *m.grad_norm});
  list.push_back({"train/tokens", static_cast<double>(m.tokens_seen)});
  if (m.step_ms > 0) list.push_back({"timing/ms", m.step_ms});
  if (m.tokens_per_second) list.push_back({"timing/tokens_per_second", *m.tokens_per_second});
  if (m.mfu) list.push_back({"timing/mfu", *m.mfu});
  if (m.memory_bytes) list.push_back({"timing/memory", static_cast<double>(*m.memory_bytes)});
  scalars(m.step, list);
}

void TensorBoardWriter::validation(const ValidationMetrics& m) {
  scalars(m.step, std::vector<Scalar>{{"validation/loss", m.loss}, {"validation/perplexity", std::exp(m.loss)}});
}

}  // namespace t6::train
