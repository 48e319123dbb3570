// What commands print: text and JSON on standard output, tables aligned for people.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace t6::cli {

// Writes to standard output, at once. Error(io) when that fails, as on a full disk.
void print(std::string_view text);

// One document and a newline; invalid UTF-8 in strings (a path's bytes) is replaced.
void print_json(const nlohmann::ordered_json& document);

// Columns as wide as their widest cell, two spaces apart. Widths count code points.
class Table {
 public:
  enum class Align { left, right };

  // Columns from left to right; a heading may be empty.
  void column(std::string heading, Align align = Align::right);
  void row(std::vector<std::string> cells);  // as many as there are columns
  void line();                               // a rule across the table
  std::string text() const;

 private:
  struct Column {
    std::string heading;
    Align align;
  };
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;  // no cells: a rule
};

// "label   text" lines with the labels padded to one width.
std::string label_lines(const std::vector<std::pair<std::string, std::string>>& lines);

}  // namespace t6::cli
