#include "data/text_source.h"

#include <bzlib.h>
#include <sys/stat.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace t6::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kStartBytes = size_t{64} << 10;
constexpr size_t kMagicBytes = 10;  // of the longest, bzip2's

// "BZh", the size of blocks, and what the first block or the end of the stream begins with. A text may begin with less.
bool is_bzip2(std::string_view start) {
  if (start.size() < kMagicBytes || !start.starts_with("BZh") || start[3] < '1' || start[3] > '9') return false;
  const std::string_view block = start.substr(4, 6);
  return block == "1AY&SY" || block == "\x17\x72\x45\x38\x50\x90";
}

}  // namespace

struct TextSource::State {
  enum class Kind { plain, gzip, zstd, bzip2 };

  State(io::File opened, std::string shown, const io::Interrupt* stop, size_t buffer_bytes)
      : file(std::move(opened)), name(std::move(shown)), interrupt(stop), input(buffer_bytes) {}
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (kind == Kind::gzip) inflateEnd(&gzip);
    ZSTD_freeDCtx(zstd);
    if (within_stream) BZ2_bzDecompressEnd(&bzip2);
  }

  // Makes sure that input is left unless the file is at its end; says whether any is.
  bool refill() {
    if (begin < end) return true;
    begin = end = 0;
    return read_more();
  }
  bool read_more() {
    if (interrupt != nullptr && !file.wait_readable(*interrupt)) return false;
    const size_t n = file.read_some(std::span(input).subspan(end));
    end += n;
    consumed += n;
    return n > 0;
  }
  std::string_view pending() const { return {reinterpret_cast<const char*>(input.data()) + begin, end - begin}; }

  size_t read_plain(std::span<char> out);
  size_t read_gzip(std::span<char> out);
  size_t read_zstd(std::span<char> out);
  size_t read_bzip2(std::span<char> out);
  size_t read(std::span<char> out) {
    switch (kind) {
      case Kind::gzip:
        return read_gzip(out);
      case Kind::zstd:
        return read_zstd(out);
      case Kind::bzip2:
        return read_bzip2(out);
      case Kind::plain:
        break;
    }
    return read_plain(out);
  }
  [[noreturn]] void damaged(std::string_view reason) const {
    fail(ExitCode::data, "{}: {} near compressed byte {}; fetch or compress the file again", name, reason,
         consumed - (end - begin));
  }

  io::File file;
  std::string name;
  const io::Interrupt* interrupt;
  Kind kind = Kind::plain;
  std::optional<uint64_t> size;
  uint64_t consumed = 0;
  std::vector<std::byte> input;
  size_t begin = 0, end = 0;  // of what is left in input
  z_stream gzip{};
  ZSTD_DCtx* zstd = nullptr;
  bz_stream bzip2{};
  bool within_stream = false;  // bzip2 holds memory
  bool within_frame = true;    // compressed data must not end here
  std::string head;            // decompressed already, to look at the first bytes
  size_t head_used = 0;
};

size_t TextSource::State::read_plain(std::span<char> out) {
  size_t done = 0;
  while (done < out.size() && refill()) {
    const size_t n = std::min(out.size() - done, end - begin);
    std::memcpy(out.data() + done, input.data() + begin, n);
    begin += n;
    done += n;
  }
  return done;
}

size_t TextSource::State::read_gzip(std::span<char> out) {
  size_t done = 0;
  while (done < out.size()) {
    if (!refill()) {
      if (within_frame) damaged("the gzip data is cut off");
      break;
    }
    if (!within_frame) {
      // Another member, or the zeros that some tools pad with.
      if (input[begin] == std::byte{0}) {
        ++begin;
        continue;
      }
      inflateReset(&gzip);
      within_frame = true;
    }
    gzip.next_in = reinterpret_cast<Bytef*>(input.data() + begin);
    gzip.avail_in = static_cast<uInt>(end - begin);
    gzip.next_out = reinterpret_cast<Bytef*>(out.data() + done);
    gzip.avail_out = static_cast<uInt>(std::min<size_t>(out.size() - done, uInt{1} << 30));
    const uInt room = gzip.avail_out;
    const int result = inflate(&gzip, Z_NO_FLUSH);
    begin = end - gzip.avail_in;
    done += room - gzip.avail_out;
    if (result == Z_STREAM_END) {
      within_frame = false;
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
      damaged(fmt::format("the gzip data is damaged ({})", gzip.msg != nullptr ? gzip.msg : "no reason given"));
    }
  }
  return done;
}

size_t TextSource::State::read_zstd(std::span<char> out) {
  ZSTD_outBuffer produced{out.data(), out.size(), 0};
  while (produced.pos < produced.size) {
    // Data that fitted no earlier `out` may still come without input.
    const bool more = refill();
    ZSTD_inBuffer given{input.data() + begin, end - begin, 0};
    const size_t before = produced.pos;
    const size_t result = ZSTD_decompressStream(zstd, &produced, &given);
    begin += given.pos;
    if (ZSTD_isError(result)) {
      damaged(fmt::format("the zstd data is damaged or needs a window over 128 MiB ({})", ZSTD_getErrorName(result)));
    }
    if (given.pos > 0 || produced.pos > before) within_frame = result != 0;
    if (!more && produced.pos == before) {
      if (within_frame) damaged("the zstd data is cut off");
      break;
    }
  }
  return produced.pos;
}

size_t TextSource::State::read_bzip2(std::span<char> out) {
  size_t done = 0;
  while (done < out.size()) {
    if (!refill()) {
      if (within_frame) damaged("the bzip2 data is cut off");
      break;
    }
    if (!within_stream) {
      bzip2 = {};
      if (BZ2_bzDecompressInit(&bzip2, /*verbosity=*/0, /*small=*/0) != BZ_OK) throw std::bad_alloc();
      within_stream = within_frame = true;
    }
    bzip2.next_in = reinterpret_cast<char*>(input.data() + begin);
    bzip2.avail_in = static_cast<unsigned int>(end - begin);
    bzip2.next_out = out.data() + done;
    bzip2.avail_out = static_cast<unsigned int>(std::min<size_t>(out.size() - done, 1U << 30));
    const unsigned int room = bzip2.avail_out;
    const int result = BZ2_bzDecompress(&bzip2);
    begin = end - bzip2.avail_in;
    done += room - bzip2.avail_out;
    if (result == BZ_STREAM_END) {
      // Another stream may follow.
      BZ2_bzDecompressEnd(&bzip2);
      within_stream = within_frame = false;
    } else if (result == BZ_MEM_ERROR) {
      throw std::bad_alloc();
    } else if (result != BZ_OK) {
      damaged("the bzip2 data is damaged");
    }
  }
  return done;
}

TextSource::TextSource(const std::string& name, const io::Interrupt* interrupt, size_t buffer_bytes) {
  if (name == "-") {
    state_ = std::make_unique<State>(io::File::standard_input(), "standard input", interrupt, buffer_bytes);
  } else {
    std::error_code error;
    const fs::file_status status = fs::status(name, error);
    if (!fs::exists(status)) fail(ExitCode::data, "{}: no such text file; check the path", name);
    if (fs::is_directory(status))
      fail(ExitCode::data, "{}: expected a text file, got a folder; name the files in it", name);
    state_ = std::make_unique<State>(io::File::open_read(name), name, interrupt, buffer_bytes);
    if (fs::is_regular_file(status)) state_->size = state_->file.size();
  }
  State& s = *state_;
  while (s.end < kMagicBytes && s.read_more()) {
  }
  const std::string_view magic = s.pending().substr(0, 4);
  if (magic.starts_with("\x1f\x8b")) {
    if (inflateInit2(&s.gzip, 16 + MAX_WBITS) != Z_OK) throw std::bad_alloc();
    s.kind = State::Kind::gzip;
  } else if (magic == "\x28\xb5\x2f\xfd") {
    s.zstd = ZSTD_createDCtx();
    if (s.zstd == nullptr) throw std::bad_alloc();
    s.kind = State::Kind::zstd;
  } else if (is_bzip2(s.pending())) {
    s.kind = State::Kind::bzip2;
  } else if (magic == "PAR1") {
    fail(ExitCode::data, "{}: this is a Parquet file, which is not read here; convert it to JSON lines first", s.name);
  }
  s.head.resize(std::min(kStartBytes, s.input.size()));
  s.head.resize(s.read(s.head));
  if (s.head.starts_with("\xff\xfe") || s.head.starts_with("\xfe\xff")) {
    fail(ExitCode::data, "{}: the text is UTF-16; convert it to UTF-8 first, for example with iconv -f UTF-16 -t UTF-8",
         s.name);
  }
  if (s.head.starts_with("\xef\xbb\xbf")) s.head_used = 3;
}

TextSource::~TextSource() = default;
TextSource::TextSource(TextSource&&) noexcept = default;
TextSource& TextSource::operator=(TextSource&&) noexcept = default;

size_t TextSource::read(std::span<char> out) {
  State& s = *state_;
  const size_t n = std::min(out.size(), s.head.size() - s.head_used);
  std::copy_n(s.head.begin() + static_cast<ptrdiff_t>(s.head_used), n, out.begin());
  s.head_used += n;
  return n + s.read(out.subspan(n));
}

std::string_view TextSource::start() const {
  return std::string_view(state_->head).substr(state_->head_used);
}

const std::string& TextSource::name() const {
  return state_->name;
}
uint64_t TextSource::consumed() const {
  return state_->consumed;
}
std::optional<uint64_t> TextSource::size() const {
  return state_->size;
}

}  // namespace t6::data
