// Sockets and bounded messages of the control channel. Everything is non-blocking; waiting is the caller's poll().
//
// A frame is a magic number, a kind, a length and that many bytes, little-endian. What is no frame, or a longer one
// than the stream takes, breaks the stream: strangers can neither fill memory nor be mistaken for a rank.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "dist/discover.h"

namespace t6::dist {

// A host that answers nothing for so long is given up.
inline constexpr int kUnreachableSeconds = 10;

// A file descriptor of a TCP socket, closed on destruction.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept;
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  ~Socket();

  bool open() const { return fd_ >= 0; }
  int descriptor() const { return fd_; }
  int port() const;            // of this end
  std::string number() const;  // this end's number, without the port
  std::string peer() const;    // the other end's, for messages and connections back

 private:
  int fd_ = -1;
};

// Listens at the port; on this host's loopback alone where the host is one, else on every interface. Port 0: any free
// one. Error(usage) when the port is taken, Error(io) otherwise.
Socket listen_at(const Address& address);
Socket accept_from(const Socket& listener);  // closed when nobody waits

// Connects within `seconds`. A socket that is not open has left why in `why`.
Socket connect_to(const Address& address, double seconds, std::string& why);

std::string host_name();
// Where a process is, such that its number means the same to those with an equal text: boot and space of numbers.
std::string process_space();

// Writes numbers and texts one behind the other.
class Writer {
 public:
  Writer& number(int64_t value);
  Writer& text(std::string_view value);
  std::string take() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

// Reads them back. A read past the end gives 0 or "" and makes good() false from then on.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  int64_t number();
  std::string text();
  bool good() const { return good_; }
  bool done() const { return good_ && bytes_.empty(); }  // and nothing is left over

 private:
  std::string_view take(size_t count);
  std::string_view bytes_;
  bool good_ = true;
};

struct Frame {
  uint8_t kind = 0;
  std::string body;
};

// Frames over a connected socket.
class Link {
 public:
  Link() = default;
  Link(Socket socket, size_t max_body) : socket_(std::move(socket)), max_body_(max_body) {}

  bool open() const { return socket_.open() && !broken_; }
  const Socket& socket() const { return socket_; }
  int descriptor() const { return socket_.descriptor(); }
  void allow(size_t max_body) { max_body_ = max_body; }
  void close() { socket_ = Socket(); }

  // Takes in what has come. False when the connection ended or broke; what came before is still there for next().
  bool read();
  // It broke because the other host answered nothing for kUnreachableSeconds, or cannot be reached at all: whether the
  // process there lives nobody knows.
  bool unreachable() const { return unreachable_; }
  std::optional<Frame> next();  // not open() any more after what is no frame

  void send(uint8_t kind, std::string_view body);  // queues it, and sends what goes at once
  bool flush();                                    // false when the connection broke
  bool unsent() const { return sent_ < out_.size(); }
  // Sends what is queued, for at most `seconds`.
  bool drain(double seconds);

 private:
  bool failed(int error);

  Socket socket_;
  size_t max_body_ = 0;
  std::string in_, out_;
  size_t sent_ = 0;  // of out_
  bool broken_ = false, unreachable_ = false;
};

}  // namespace t6::dist
