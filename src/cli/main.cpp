// The program t6: reads the command line, runs the subcommand, turns errors into messages and exit codes.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <new>

#include "base/build_info.h"
#include "base/error.h"
#include "cli/app.h"
#include "dist/ending.h"
#include "tensor/gpu.h"

namespace {

int report(const std::string& message, t6::ExitCode code) {
  fmt::print(stderr, "t6: {}\n", message);
  return static_cast<int>(code);
}

int report_bug(const std::string& what) {
  return report(fmt::format("internal error: {}\nThis is a bug in t6, not in your input. Please report it with the "
                            "command line, the config and this: t6 {} (commit {}).",
                            what, t6::build_info::version(), t6::build_info::commit()),
                t6::ExitCode::internal);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return t6::cli::run(argc, argv);
  } catch (const t6::SaidElsewhere& error) {
    t6::dist::leave_with_others(error.code());
  } catch (const t6::Error& error) {
    return error.code() == t6::ExitCode::internal ? report_bug(error.what()) : report(error.what(), error.code());
  } catch (const t6::gpu::OutOfMemory& error) {
    return report(fmt::format("{}. Take a smaller train.micro_batch, --batch or --context, or train.recompute (qkv for "
                              "tpa kinds, attention, block); t6 info and t6 train --dry-run estimate what is needed",
                              error.what()),
                  t6::ExitCode::io);
  } catch (const std::bad_alloc&) {
    return report(
        "out of memory. For training, make train.micro_batch smaller, set train.recompute to qkv (tpa kinds), "
        "attention "
        "or block, or take a smaller model (t6 train --dry-run estimates what a run needs); elsewhere, fewer --workers "
        "or a smaller --batch.",
        t6::ExitCode::io);
  } catch (const std::filesystem::filesystem_error& error) {
    return report(error.what(), t6::ExitCode::io);
  } catch (const std::exception& error) {
    return report_bug(error.what());
  }
}
