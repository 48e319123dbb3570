#include "cli/output.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/error.h"

namespace t6::cli {
namespace {

size_t width_of(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string padded(const std::string& text, size_t width, Table::Align align) {
  const std::string space(width - std::min(width, width_of(text)), ' ');
  return align == Table::Align::left ? text + space : space + text;
}

}  // namespace

void print(std::string_view text) {
  errno = 0;
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    fail(ExitCode::io, "cannot write to standard output: {}", std::strerror(errno));
  }
}

void print_json(const nlohmann::ordered_json& document) {
  print(document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
}

void Table::column(std::string heading, Align align) {
  columns_.push_back({std::move(heading), align});
}

void Table::row(std::vector<std::string> cells) {
  T6_CHECK(cells.size() == columns_.size(), "[table] expected {} cells, got {}", columns_.size(), cells.size());
  rows_.push_back(std::move(cells));
}

void Table::line() {
  rows_.emplace_back();
}

std::string Table::text() const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(width_of(column.heading));
  for (const auto& cells : rows_) {
    for (size_t i = 0; i < cells.size(); ++i) widths[i] = std::max(widths[i], width_of(cells[i]));
  }
  size_t total = 0;
  for (const size_t width : widths) total += width + 2;

  std::string out;
  const auto add = [&](const auto& cell) {
    std::string row;
    for (size_t i = 0; i < columns_.size(); ++i) {
      row += (i == 0 ? "" : "  ") + padded(cell(i), widths[i], columns_[i].align);
    }
    out += row.substr(0, row.find_last_not_of(' ') + 1) + "\n";
  };
  const std::string rule = std::string(total - 2, '-') + "\n";
  add([&](size_t i) { return columns_[i].heading; });
  out += rule;
  for (const auto& cells : rows_) {
    if (cells.empty()) {
      out += rule;
    } else {
      add([&](size_t i) { return cells[i]; });
    }
  }
  return out;
}

std::string label_lines(const std::vector<std::pair<std::string, std::string>>& lines) {
  size_t width = 0;
  for (const auto& [label, text] : lines) width = std::max(width, width_of(label));
  std::string out;
  for (const auto& [label, text] : lines) out += padded(label, width, Table::Align::left) + "  " + text + "\n";
  return out;
}

}  // namespace t6::cli
