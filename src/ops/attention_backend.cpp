#include "ops/attention_backend.h"

#include <array>
#include <atomic>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "ops/attention_cuda/cudnn.h"

namespace t6 {
namespace {

std::optional<AttentionKernels> kernels_of_environment() {
  const char* text = std::getenv("T6_ATTENTION");
  if (text == nullptr || *text == '\0') return std::nullopt;
  const std::string_view name(text);
  if (name == "auto") return AttentionKernels::automatic;
  if (name == "cudnn") return AttentionKernels::cudnn;
  if (name == "own") return AttentionKernels::own;
  fail(ExitCode::usage, "T6_ATTENTION: expected auto, cudnn or own, got '{}'", name);
}

AttentionBackend& chosen() {
  static AttentionBackend backend;
  return backend;
}

struct Used {
  std::atomic<bool> cudnn = false, own = false;
};

Used& used(AttentionPass pass) {
  static std::array<Used, 2> both;
  return both[static_cast<size_t>(pass)];
}

}  // namespace

void set_attention_backend(const AttentionBackend& backend) {
  chosen() = backend;
}

AttentionBackend attention_backend() {
  static const std::optional<AttentionKernels> environment = kernels_of_environment();
  AttentionBackend backend = chosen();
  if (environment) backend.kernels = *environment;
  return backend;
}

bool cudnn_available() {
  return cuda::cudnn::library().available;
}

std::string describe_attention_backend() {
  const AttentionBackend backend = attention_backend();
  if (backend.kernels == AttentionKernels::own) return "own kernels";
  const cuda::cudnn::Library& library = cuda::cudnn::library();
  if (!library.available) return "own kernels (" + library.what + ")";
  return library.what + (backend.deterministic ? ", deterministic" : "");
}

std::string attention_kernels_used(AttentionPass pass) {
  const bool cudnn = used(pass).cudnn, own = used(pass).own;
  if (cudnn) return own ? "cuDNN and own kernels" : "cuDNN";
  return own ? "own kernels" : "";
}

void forget_attention_kernels() {
  for (const AttentionPass pass : {AttentionPass::forward, AttentionPass::backward}) {
    used(pass).cudnn = false;
    used(pass).own = false;
  }
}

void note_attention_kernels(AttentionPass pass, AttentionKernels kernels) {
  (kernels == AttentionKernels::cudnn ? used(pass).cudnn : used(pass).own) = true;
}

}  // namespace t6
