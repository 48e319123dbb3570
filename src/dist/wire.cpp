#include "dist/wire.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <fstream>
#include <memory>

#include "base/clock.h"
#include "base/error.h"

namespace t6::dist {
namespace {

constexpr uint32_t kMagic = 0x31433654;  // "T6C1"
constexpr size_t kHeader = 4 + 1 + 4;
constexpr size_t kMaxUnsent = size_t{256} << 20;

// A host that went away without a word (no power, no network) breaks its connections after kUnreachableSeconds. A
// process that is merely stopped keeps them: its kernel answers.
void set_options(int fd) {
  const auto set = [&](int level, int option, int value) { ::setsockopt(fd, level, option, &value, sizeof value); };
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, 4);
  set(IPPROTO_TCP, TCP_KEEPINTVL, 2);
  set(IPPROTO_TCP, TCP_KEEPCNT, 3);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT, kUnreachableSeconds * 1000);
}

using Results = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Results resolve(const Address& address, int flags, std::string& why) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const char* host = address.host.empty() ? nullptr : address.host.c_str();
  const int error = ::getaddrinfo(host, std::to_string(address.port).c_str(), &hints, &found);
  if (error != 0) {
    why = fmt::format("the name {} is not known here ({})", address.host, ::gai_strerror(error));
    found = nullptr;
  }
  return Results(found, &::freeaddrinfo);
}

bool wait_writable(int fd, double deadline) {
  for (;;) {
    pollfd waited{fd, POLLOUT, 0};
    const double left = std::ceil((deadline - steady_seconds()) * 1000);
    const int ready = ::poll(&waited, 1, left > 0 ? static_cast<int>(left) : 0);
    if (ready >= 0 || errno != EINTR) return ready > 0;
  }
}

std::string number_of(const sockaddr_storage& address, socklen_t size) {
  std::array<char, NI_MAXHOST> host{};
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  if (::getnameinfo(generic, size, host.data(), host.size(), nullptr, 0, NI_NUMERICHOST) != 0) return "?";
  const std::string text = host.data();
  return text.starts_with("::ffff:") ? text.substr(7) : text;  // IPv4 through an IPv6 socket
}

Socket try_listen(const addrinfo& at, int& error) {
  Socket socket(::socket(at.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int on = 1, off = 0;
  ::setsockopt(socket.descriptor(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (at.ai_family == AF_INET6) ::setsockopt(socket.descriptor(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (!socket.open() || ::bind(socket.descriptor(), at.ai_addr, at.ai_addrlen) != 0 ||
      ::listen(socket.descriptor(), 1024) != 0) {
    error = errno;
    return {};
  }
  return socket;
}

void append(std::string& bytes, const void* value, size_t size) {
  bytes.append(static_cast<const char*>(value), size);
}

}  // namespace

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

int Socket::port() const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&address)->sin6_port
                                             : reinterpret_cast<sockaddr_in*>(&address)->sin_port);
}

std::string Socket::number() const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "?";
  return number_of(address, size);
}

std::string Socket::peer() const {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getpeername(fd_, reinterpret_cast<sockaddr*>(&address), &size) != 0) return "?";
  return number_of(address, size);
}

Socket listen_at(const Address& address) {
  std::string why;
  // A host's own name may stand for its loopback (127.0.1.1): others come through every interface.
  const Address here{is_loopback(address.host) ? address.host : "", address.port};
  const Results found = resolve(here, AI_PASSIVE, why);
  int error = 0;
  for (const int family : {AF_INET6, AF_INET}) {
    for (const addrinfo* at = found.get(); at != nullptr; at = at->ai_next) {
      if (at->ai_family != family) continue;
      Socket socket = try_listen(*at, error);
      if (socket.open()) return socket;
      if (error == EADDRINUSE) {
        fail(ExitCode::usage,
             "port {} of this host ({}) is in use, by another run or another program; choose another one: "
             "MASTER_PORT=..., --address HOST:PORT; t6 launch finds a free one itself",
             address.port, host_name());
      }
    }
  }
  fail(ExitCode::io, "cannot listen at {}: {}", address.text(), why.empty() ? std::strerror(error) : why);
}

Socket accept_from(const Socket& listener) {
  Socket socket(::accept4(listener.descriptor(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (socket.open()) set_options(socket.descriptor());
  return socket;
}

Socket connect_to(const Address& address, double seconds, std::string& why) {
  const double deadline = steady_seconds() + seconds;
  const Results found = resolve(address, 0, why);
  for (const addrinfo* at = found.get(); at != nullptr; at = at->ai_next) {
    Socket socket(::socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket.open()) {
      why = std::strerror(errno);
      continue;
    }
    set_options(socket.descriptor());
    int error = ::connect(socket.descriptor(), at->ai_addr, at->ai_addrlen) == 0 ? 0 : errno;
    if (error == EINPROGRESS) {
      socklen_t size = sizeof error;
      error = ETIMEDOUT;
      if (wait_writable(socket.descriptor(), deadline)) {
        ::getsockopt(socket.descriptor(), SOL_SOCKET, SO_ERROR, &error, &size);
      }
    }
    // A port that the system gives out itself may be given to this very socket, which then is connected to itself.
    if (error == 0 && socket.port() == address.port) {
      sockaddr_storage mine{}, theirs{};
      socklen_t mine_size = sizeof mine, theirs_size = sizeof theirs;
      ::getsockname(socket.descriptor(), reinterpret_cast<sockaddr*>(&mine), &mine_size);
      ::getpeername(socket.descriptor(), reinterpret_cast<sockaddr*>(&theirs), &theirs_size);
      if (mine_size == theirs_size && std::memcmp(&mine, &theirs, mine_size) == 0) error = ECONNREFUSED;
    }
    if (error == 0) return socket;
    why = error == ECONNREFUSED ? "nobody listens there" : std::strerror(error);
  }
  return {};
}

std::string host_name() {
  std::array<char, 256> name{};
  if (::gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "?";
  return name.data();
}

std::string process_space() {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  struct stat space {};
  if (boot.empty() || ::stat("/proc/self/ns/pid", &space) != 0) return "";
  return fmt::format("{}:{}", boot, space.st_ino);
}

Writer& Writer::number(int64_t value) {
  append(bytes_, &value, sizeof value);
  return *this;
}

Writer& Writer::text(std::string_view value) {
  number(static_cast<int64_t>(value.size()));
  bytes_.append(value);
  return *this;
}

std::string_view Reader::take(size_t count) {
  if (!good_ || count > bytes_.size()) {
    good_ = false;
    return {};
  }
  const std::string_view taken = bytes_.substr(0, count);
  bytes_.remove_prefix(count);
  return taken;
}

int64_t Reader::number() {
  int64_t value = 0;
  const std::string_view bytes = take(sizeof value);
  if (good_) std::memcpy(&value, bytes.data(), sizeof value);
  return value;
}

std::string Reader::text() {
  const int64_t size = number();
  if (size < 0) good_ = false;
  return std::string(take(static_cast<size_t>(size)));
}

bool Link::failed(int error) {
  for (const int lost : {ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, EHOSTDOWN, ENETDOWN}) {
    unreachable_ = unreachable_ || error == lost;
  }
  return false;
}

bool Link::read() {
  if (!open()) return false;
  std::array<char, 65536> buffer;
  // Not more than two frames ahead of next().
  while (in_.size() <= 2 * (max_body_ + kHeader)) {
    const ssize_t n = ::recv(descriptor(), buffer.data(), buffer.size(), 0);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
    if (n < 0) return failed(errno);
    if (n == 0) return false;
    in_.append(buffer.data(), static_cast<size_t>(n));
  }
  return true;
}

std::optional<Frame> Link::next() {
  if (broken_) return std::nullopt;
  uint32_t magic = 0, length = 0;
  const size_t known = std::min(in_.size(), sizeof magic);
  if (std::memcmp(in_.data(), &kMagic, known) != 0) broken_ = true;
  if (broken_ || in_.size() < kHeader) return std::nullopt;
  std::memcpy(&length, in_.data() + 5, sizeof length);
  if (length > max_body_) {
    broken_ = true;
    return std::nullopt;
  }
  if (in_.size() < kHeader + length) return std::nullopt;
  Frame frame{static_cast<uint8_t>(in_[4]), in_.substr(kHeader, length)};
  in_.erase(0, kHeader + length);
  return frame;
}

void Link::send(uint8_t kind, std::string_view body) {
  if (!open()) return;
  const auto length = static_cast<uint32_t>(body.size());
  append(out_, &kMagic, sizeof kMagic);
  append(out_, &kind, sizeof kind);
  append(out_, &length, sizeof length);
  out_.append(body);
  if (out_.size() - sent_ > kMaxUnsent) broken_ = true;
  flush();
}

bool Link::flush() {
  while (open() && unsent()) {
    const ssize_t n = ::send(descriptor(), out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return true;
    if (n <= 0) {
      if (n < 0) failed(errno);
      // What the other side said before it went is still to be read: read() finds the end.
      out_.clear();
      sent_ = 0;
      return false;
    }
    sent_ += static_cast<size_t>(n);
  }
  if (!unsent()) {
    out_.clear();
    sent_ = 0;
  }
  return open();
}

bool Link::drain(double seconds) {
  const double deadline = steady_seconds() + seconds;
  while (flush() && unsent()) {
    if (!wait_writable(descriptor(), deadline)) return false;
  }
  return open();
}

}  // namespace t6::dist
