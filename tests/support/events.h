// TensorBoard's event files read back, for tests of what was written.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <filesystem>
#include <map>
#include <stdexcept>
#include <string>
#include <variant>
#include <vector>

#include "base/io.h"
#include "train/tensorboard.h"

namespace t6::test {

// A protocol buffer without its schema: field number to values, in order.
struct Message {
  std::multimap<uint32_t, std::variant<uint64_t, std::string>> fields;

  bool has(uint32_t field) const { return fields.count(field) != 0; }
  uint64_t number(uint32_t field) const { return std::get<uint64_t>(fields.find(field)->second); }
  std::string bytes(uint32_t field) const { return std::get<std::string>(fields.find(field)->second); }
  Message message(uint32_t field) const { return parse(bytes(field)); }
  std::vector<Message> messages(uint32_t field) const {
    std::vector<Message> result;
    for (auto [at, end] = fields.equal_range(field); at != end; ++at)
      result.push_back(parse(std::get<std::string>(at->second)));
    return result;
  }

  static uint64_t little_endian(const std::string& bytes, size_t at, size_t count) {
    uint64_t value = 0;
    for (size_t i = 0; i < count; ++i) value |= uint64_t{static_cast<uint8_t>(bytes.at(at + i))} << (8 * i);
    return value;
  }

  static Message parse(const std::string& bytes) {
    Message message;
    size_t at = 0;
    const auto varint = [&] {
      uint64_t value = 0;
      for (int shift = 0;; shift += 7) {
        const auto byte = static_cast<uint8_t>(bytes.at(at++));
        value |= uint64_t{byte & 0x7FU} << shift;
        if (byte < 0x80) return value;
      }
    };
    while (at < bytes.size()) {
      const uint64_t key = varint();
      const auto field = static_cast<uint32_t>(key >> 3);
      switch (key & 7) {
        case 0:
          message.fields.emplace(field, varint());
          break;
        case 1:
          message.fields.emplace(field, little_endian(bytes, at, 8));
          at += 8;
          break;
        case 5:
          message.fields.emplace(field, little_endian(bytes, at, 4));
          at += 4;
          break;
        case 2: {
          const uint64_t size = varint();
          if (size > bytes.size() - at) throw std::out_of_range("field");
          message.fields.emplace(field, bytes.substr(at, size));
          at += size;
          break;
        }
        default:
          throw std::out_of_range("wire type");
      }
    }
    return message;
  }
};

inline uint32_t unmask(uint32_t masked) {
  return std::rotl(masked - 0xA282EAD8U, 15);
}

// The events of a file; checks the framing.
inline std::vector<Message> read_events(const std::filesystem::path& path) {
  const std::string bytes = io::read_text(path);
  std::vector<Message> events;
  for (size_t at = 0; at < bytes.size();) {
    const uint64_t size = Message::little_endian(bytes, at, 8);
    EXPECT_EQ(unmask(static_cast<uint32_t>(Message::little_endian(bytes, at + 8, 4))),
              train::crc32c(bytes.substr(at, 8)));
    const std::string payload = bytes.substr(at + 12, size);
    EXPECT_EQ(payload.size(), size);
    EXPECT_EQ(unmask(static_cast<uint32_t>(Message::little_endian(bytes, at + 12 + size, 4))), train::crc32c(payload));
    events.push_back(Message::parse(payload));
    at += 16 + size;
  }
  return events;
}

inline float simple_value(const Message& value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.number(2)));
}

}  // namespace t6::test
