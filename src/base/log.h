// Logging for people: one logger to standard error, and to a file of the run folder once that is open.
//
// Include from .cpp files only, never from a .cu file or a public header that one includes.
#pragma once

#include <spdlog/spdlog.h>

#include <filesystem>
#include <string_view>

namespace t6::log {

// Sets up the standard-error logger ("12:34:56 warning: text"; colours unless NO_COLOR is set); called once by main.
// quiet leaves only warnings and errors there, and everything in the files.
void start(bool quiet);
bool quiet();  // as start() was told
// Another process of the same run speaks for all: from now on only errors show on the terminal.
void leave_the_word();

// From now on also appends every line, with date, to `path` (train.log of a run folder). Error(io) if it cannot be
// opened.
void add_file(const std::filesystem::path& path);

// A line for the files alone: the error that main will say on the terminal when it ends the program. A file that does
// not take it (the disk may be what the error is about) goes without.
void error_in_files(std::string_view text) noexcept;

// A progress bar or other transient line owns the terminal's last line: `clear` is called before each line logged to
// the terminal and `redraw` after it. Null functions end that.
void set_transient_line(void (*clear)(), void (*redraw)());

using spdlog::error;
using spdlog::info;
using spdlog::warn;

}  // namespace t6::log
