#include <hdf5.h>

#include <cerrno>

#include "checkpoint/checkpoint_support.h"
#include "checkpoint/fletcher32.h"
#include "checkpoint/hdf5_reader.h"
#include "checkpoint/hdf5_writer.h"

namespace t6::checkpoint {
namespace {

using Hdf5File = ScratchTest;

Hdf5Reader open(const fs::path& path) {
  return Hdf5Reader(io::File::open_read(path));
}

Tensor read(const Hdf5Reader& reader, const std::string& name, DType dtype, const Shape& shape) {
  const Tensor tensor = Tensor::empty(shape, dtype);
  reader.read(name, shape, 0, tensor);
  return tensor;
}

TEST_F(Hdf5File, TensorsComeBackBitForBit) {
  const fs::path path = folder_ / "x.h5";
  std::vector<std::pair<std::string, Tensor>> tensors;
  Hdf5Writer writer(path);
  for (DType dtype : {DType::f32, DType::bf16, DType::f64, DType::i32}) {
    for (const Shape& shape :
         {Shape{}, Shape{1}, Shape{3, 5}, Shape{700, 999}, Shape{2, 300'001}, Shape{2, 3, 4, 5, 6}}) {
      const std::string name = fmt::format("a/{}/t{}", name_of(dtype), tensors.size());
      tensors.emplace_back(name, random_bits(tensors.size(), shape, dtype));
      const Tensor& tensor = tensors.back().second;
      const auto* bytes = static_cast<const std::byte*>(tensor.raw());
      EXPECT_EQ(writer.write(name, tensor), io::hash_bytes({bytes, tensor.bytes()}));
    }
  }
  const Hdf5Writer::Closed closed = writer.close();
  EXPECT_EQ(closed.bytes, fs::file_size(path));
  EXPECT_EQ(closed.xxh3, io::hash_file(path));
  Hdf5Reader reader = open(path);
  for (const auto& [name, tensor] : tensors) {
    EXPECT_TRUE(same_bits(read(reader, name, tensor.dtype(), tensor.shape()), tensor)) << name;
  }
}

// Any range of the flattened tensor, also one that begins and ends within rows and chunks.
TEST_F(Hdf5File, RangesComeBackBitForBit) {
  const fs::path path = folder_ / "x.h5";
  Hdf5Writer writer(path);
  const std::vector<Shape> small{Shape{}, Shape{7}, Shape{2, 3}, Shape{2, 3, 4}, Shape{3, 1, 2, 1, 3}};
  const std::vector<Shape> large{Shape{700'001}, Shape{700, 999}, Shape{2, 300'001}, Shape{3, 5, 7, 11, 401}};
  std::vector<Tensor> tensors;
  for (const std::vector<Shape>& shapes : {small, large}) {
    for (const Shape& shape : shapes) {
      tensors.push_back(random_bits(tensors.size(), shape, DType::f32));
      writer.write(std::to_string(tensors.size()), tensors.back());
    }
  }
  writer.close();
  Hdf5Reader reader = open(path);
  const auto expect_range = [&](size_t i, int64_t begin, int64_t count) {
    const Tensor into = Tensor::zeros({count}, DType::f32);
    reader.read(std::to_string(i + 1), tensors[i].shape(), begin, into);
    EXPECT_TRUE(same_bits(into, tensors[i].slice(begin, {count}))) << to_string(tensors[i].shape()) << begin << count;
  };
  for (size_t i = 0; i < small.size(); ++i) {
    const int64_t numel = tensors[i].numel();
    for (int64_t begin = 0; begin < numel; ++begin) {
      for (int64_t count = 1; count <= numel - begin; ++count) expect_range(i, begin, count);
    }
  }
  const Philox random(1, RngPurpose::test);
  for (size_t i = small.size(); i < tensors.size(); ++i) {
    const auto numel = static_cast<uint64_t>(tensors[i].numel());
    for (uint64_t n = 0; n < 10; ++n) {
      const uint64_t begin = random.below(100 * i + 2 * n, numel),
                     count = 1 + random.below(100 * i + 2 * n + 1, numel - begin);
      expect_range(i, static_cast<int64_t>(begin), static_cast<int64_t>(count));
    }
  }
  const Tensor two = Tensor::zeros({2}, DType::f32);
  for (const int64_t begin : {-1, 6, 7}) {
    EXPECT_EQ(error_of([&] { reader.read("2", {7}, begin, two); }).code(), ExitCode::internal);
  }
  EXPECT_EQ(error_of([&] { reader.read("2", {8}, 0, two); }).code(), ExitCode::checkpoint);
}

TEST_F(Hdf5File, AttributesComeBack) {
  Hdf5Writer writer(folder_ / "x.h5");
  writer.set_attribute("step", int64_t{-1234567890123});
  writer.close();
  Hdf5Reader reader = open(folder_ / "x.h5");
  EXPECT_EQ(reader.get_integer("step"), -1234567890123);
  EXPECT_EQ(error_of([&] { reader.get_integer("missing"); }).code(), ExitCode::checkpoint);
}

TEST_F(Hdf5File, FilesDependOnContentAlone) {
  std::vector<std::string> hashes;
  for (const char* name : {"a.h5", "b.h5"}) {
    Hdf5Writer writer(folder_ / name);
    for (int i = 0; i < 12; ++i) writer.write(fmt::format("p/q/{}", i), random_bits(1, {257, 1031}, DType::f32));
    writer.set_attribute("step", int64_t{1});
    hashes.push_back(writer.close().xxh3);
    ::usleep(name[0] == 'a' ? 1'100'000 : 0);  // times are kept in seconds
  }
  EXPECT_EQ(hashes[0], hashes[1]);
}

TEST_F(Hdf5File, ExpectationsAreExact) {
  const fs::path path = folder_ / "x.h5";
  Hdf5Writer writer(path);
  writer.write("a/b", random_bits(1, {4, 6}, DType::f32));
  writer.close();
  Hdf5Reader reader = open(path);
  EXPECT_NO_THROW(read(reader, "a/b", DType::f32, {4, 6}));
  const auto refused = [&](const char* name, DType dtype, const Shape& shape, const char* reason) {
    const Error error = error_of([&] { read(reader, name, dtype, shape); });
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    EXPECT_TRUE(contains(error.what(), name) && contains(error.what(), path.string()) && contains(error.what(), reason))
        << error.what();
  };
  refused("a/b", DType::f32, {6, 4}, "[6, 4]");
  refused("a/b", DType::f32, {4, 6, 1}, "[4, 6, 1]");
  refused("a/b", DType::f32, {24}, "[24]");
  refused("a/b", DType::i32, {4, 6}, "i32");
  refused("a/b", DType::bf16, {4, 6}, "bf16");
  refused("a/c", DType::f32, {4, 6}, "");
  refused("a", DType::f32, {4, 6}, "");
  refused("c/b", DType::f32, {4, 6}, "");
}

TEST_F(Hdf5File, NamesAndTensorsAreChecked) {
  for (const char* name : {"", "/", "/a", "a/", "a//b", "..", "a/../b", "./a", "a b", "a\nb", "\xc3\xa4"}) {
    EXPECT_FALSE(is_valid_name(name)) << name;
  }
  EXPECT_FALSE(is_valid_name(std::string(256, 'a')));
  for (const char* name : {"a", "params/blocks.0.attn.W_A_q.weight", "..a", "a/...", "~"}) {
    EXPECT_TRUE(is_valid_name(name)) << name;
  }
  Hdf5Writer writer(folder_ / "x.h5");
  const Tensor tensor = random_bits(1, {3}, DType::f32);
  writer.write("a", tensor);
  EXPECT_EQ(error_of([&] { writer.write("a", tensor); }).code(), ExitCode::internal);
  EXPECT_EQ(error_of([&] { writer.write("../b", tensor); }).code(), ExitCode::internal);
  EXPECT_EQ(error_of([&] { writer.write("c", Tensor::empty({0}, DType::f32)); }).code(), ExitCode::internal);
  EXPECT_EQ(error_of([&] { Hdf5Writer again(folder_ / "x.h5"); }).code(), ExitCode::io);
}

// Links, plain contiguous data and foreign filters, as no file of ours has them.
TEST_F(Hdf5File, LinksAndForeignStorageAreRefused) {
  const fs::path good = folder_ / "good.h5", bad = folder_ / "bad.h5";
  Hdf5Writer writer(good);
  const Tensor tensor = random_bits(1, {16}, DType::f32);
  writer.write("x", tensor);
  writer.close();
  const hid_t file = H5Fcreate(bad.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
  ASSERT_GE(file, 0);
  const hsize_t dims[] = {16};
  const hid_t space = H5Screate_simple(1, dims, nullptr);
  H5Dclose(H5Dcreate2(file, "contiguous", H5T_IEEE_F32LE, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT));
  const hid_t create = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_chunk(create, 1, dims);
  H5Dclose(H5Dcreate2(file, "no_checksum", H5T_IEEE_F32LE, space, H5P_DEFAULT, create, H5P_DEFAULT));
  H5Pset_fletcher32(create);
  H5Dclose(H5Dcreate2(file, "empty", H5T_IEEE_F32LE, space, H5P_DEFAULT, create, H5P_DEFAULT));
  const hid_t fine = H5Dcreate2(file, "fine", H5T_IEEE_F32LE, space, H5P_DEFAULT, create, H5P_DEFAULT);
  H5Dwrite(fine, H5T_IEEE_F32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor.raw());
  H5Dclose(fine);
  H5Pset_deflate(create, 1);
  H5Dclose(H5Dcreate2(file, "compressed", H5T_IEEE_F32LE, space, H5P_DEFAULT, create, H5P_DEFAULT));
  const auto add_chunked = [&](const char* name, const std::vector<hsize_t>& shape, const std::vector<hsize_t>& chunk) {
    const auto rank = static_cast<int>(shape.size());
    const hid_t place = H5Screate_simple(rank, shape.data(), nullptr), cells = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(cells, rank, chunk.data());
    H5Pset_fletcher32(cells);
    const hid_t added = H5Dcreate2(file, name, H5T_IEEE_F32LE, place, H5P_DEFAULT, cells, H5P_DEFAULT);
    H5Dwrite(added, H5T_IEEE_F32LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, tensor.raw());
    H5Dclose(added);
    H5Sclose(place);
    H5Pclose(cells);
  };
  add_chunked("deep", {1, 1, 1, 1, 1, 2}, {1, 1, 1, 1, 1, 2});  // more dimensions than a tensor has
  add_chunked("columns", {4, 4}, {4, 1});                       // not consecutive elements
  const hid_t outside = H5Pcreate(H5P_DATASET_CREATE);
  H5Pset_external(outside, "/etc/passwd", 0, 64);
  H5Dclose(H5Dcreate2(file, "outside", H5T_IEEE_F32LE, space, H5P_DEFAULT, outside, H5P_DEFAULT));
  H5Lcreate_soft("/fine", file, "soft", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_soft("/", file, "group", H5P_DEFAULT, H5P_DEFAULT);
  H5Lcreate_external(good.c_str(), "/x", file, "external", H5P_DEFAULT, H5P_DEFAULT);
  for (const hid_t id : {outside, create}) H5Pclose(id);
  H5Sclose(space);
  H5Fclose(file);
  Hdf5Reader reader = open(bad);
  EXPECT_TRUE(same_bits(read(reader, "fine", DType::f32, {16}), tensor));
  for (const char* name : {"empty", "deep", "columns", "contiguous", "no_checksum", "compressed", "outside", "soft",
                           "group/fine", "external"}) {
    const Error error = error_of([&] { read(reader, name, DType::f32, {16}); });
    EXPECT_EQ(error.code(), ExitCode::checkpoint) << name;
    EXPECT_TRUE(contains(error.what(), "expected")) << error.what();
  }
}

TEST_F(Hdf5File, ChecksumsFindAFlipInTheData) {
  const fs::path path = folder_ / "x.h5";
  Hdf5Writer writer(path);
  writer.write("x", Tensor::full({1000}, DType::f32, 1.0));
  writer.close();
  const std::string bytes = read_bytes(path);
  const float one = 1.0f;
  std::string pattern(16, '\0');
  for (size_t i = 0; i < 16; i += 4) std::memcpy(pattern.data() + i, &one, 4);
  const size_t data = bytes.find(pattern);
  ASSERT_NE(data, std::string::npos);
  flip_bit(path, data + 1002, 3);
  const Error error = error_of([&] { read(open(path), "x", DType::f32, {1000}); });
  EXPECT_EQ(error.code(), ExitCode::checkpoint);
  EXPECT_TRUE(contains(error.what(), "checksum")) << error.what();
}

// A loop over words as the checksum is defined, with the remainder taken at every step.
uint32_t plain_fletcher32(const std::string& bytes) {
  uint32_t first = 0, second = 0;
  const auto add = [](uint32_t sum, uint32_t x) { return sum + x == 0 ? 0 : (sum + x - 1) % 65535 + 1; };
  for (size_t i = 0; i < bytes.size(); i += 2) {
    const auto high = static_cast<uint8_t>(bytes[i]),
               low = static_cast<uint8_t>(i + 1 < bytes.size() ? bytes[i + 1] : 0);
    first = add(first, high * 256u + low);
    second = add(second, first);
  }
  return second << 16 | first;
}

TEST(Fletcher32, EqualsThePlainLoop) {
  const auto expect = [](const std::string& bytes) {
    EXPECT_EQ(fletcher32(std::as_bytes(std::span(bytes))), plain_fletcher32(bytes)) << bytes.size();
  };
  for (const char fill : {'\0', '\1', '\x7f', '\xff'}) {
    for (size_t size = 0; size < 1100; ++size) expect(std::string(size, fill));
    expect(std::string(100'000, fill));
  }
  const Philox random(3, RngPurpose::test);
  for (uint64_t size = 0; size < 3000; size += 1 + size / 20) {
    std::string bytes(size, '\0');
    for (uint64_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(random.bits(size * 4000 + i));
    expect(bytes);
  }
}

// Files on which libhdf5 crashes, or never ends, are refused, or hold no tensor.
TEST(Hdf5Reader, SurvivesFilesThatTheLibraryDoesNot) {
  for (const char* name : {"crash.h5", "endless.h5"}) {
    const fs::path path = fs::path(T6_SOURCE_DIR) / "tests/data/hostile" / name;
    const Error error = error_of([&] { read(open(path), "tokens", DType::i32, {5}); });
    EXPECT_EQ(error.code(), ExitCode::checkpoint);
    EXPECT_TRUE(contains(error.what(), path.string())) << error.what();
  }
}

TEST_F(Hdf5File, WhatIsNotHdf5IsRefused) {
  for (const std::string& text : {std::string(), std::string("hello"), std::string(5000, 'x')}) {
    write_bytes(folder_ / "x.h5", text);
    EXPECT_EQ(error_of([&] { open(folder_ / "x.h5"); }).code(), ExitCode::checkpoint);
  }
}

TEST_F(Hdf5File, ChunksAreAtMostOneMebibyteAndStorageIsBounded) {
  for (const Shape& shape : {Shape{}, Shape{7}, Shape{50304, 768}, Shape{3, 1'000'003}, Shape{342, 768},
                             Shape{5, 1, 999'999}, Shape{1, 262'145}, Shape{2, 2, 2, 2, 2}}) {
    const Shape chunk = chunk_shape(DType::f32, shape);
    EXPECT_LE(chunk.numel() * 4, int64_t{1} << 20) << to_string(shape);
    EXPECT_EQ(chunk.rank(), shape.rank());
    const uint64_t bytes = static_cast<uint64_t>(shape.numel()) * 4;
    EXPECT_GE(stored_bytes(DType::f32, shape), bytes);
    EXPECT_LE(stored_bytes(DType::f32, shape), bytes + bytes / 50 + 8192) << to_string(shape);
  }
}

// After the first failing call nothing more is written, the file closes in good order, and the reason is kept.
TEST_F(Hdf5File, AFaultAtAnyCallEndsTheWriting) {
  const Tensor tensor = random_bits(1, {300, 1024}, DType::f32);
  size_t count = 0, stop = SIZE_MAX, after = 0;
  io::set_fault_hook([&](io::DiskCall, const fs::path&, size_t&) {
    if (count > stop) ++after;
    return count++ == stop ? ENOSPC : 0;
  });
  const auto write = [&](const fs::path& path) {
    Hdf5Writer writer(path);
    for (int i = 0; i < 10; ++i) writer.write(fmt::format("a/{}", i), tensor);
    writer.close();
  };
  write(folder_ / "whole.h5");
  const size_t calls = count;
  EXPECT_GT(calls, 10u);
  for (stop = 0; stop < calls; ++stop) {
    count = after = 0;
    const fs::path path = folder_ / fmt::format("{}.h5", stop);
    const Error error = error_of([&] { write(path); });
    EXPECT_EQ(error.code(), ExitCode::io) << stop;
    EXPECT_TRUE(contains(error.what(), "No space left") && contains(error.what(), path.string())) << error.what();
    EXPECT_EQ(after, 0u) << "call " << stop;
  }
}

}  // namespace
}  // namespace t6::checkpoint
