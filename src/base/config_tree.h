// The values of several YAML files and command-line overrides as one tree that remembers where each came from.
//
// The subset of YAML that a config needs, read strictly: duplicate keys, anchors, aliases, tags, further documents,
// keys that are not text, files over 1 MiB, nesting over 16 and more than 50,000 values are problems, each with its
// position. Problems are collected, so that one run reports all of them.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace t6::config {

inline constexpr size_t kMaxFileBytes = size_t{1} << 20;
inline constexpr size_t kMaxDepth = 16;
inline constexpr size_t kMaxValues = 50000;
inline constexpr size_t kMaxProblemsShown = 100;

// A position in the source-th thing read; line and column count from 1 (bytes), line 0 is a whole source (an override).
struct Location {
  int source = -1;
  int line = 0;
  int column = 0;
};

struct Entry;

struct Node {
  enum class Kind {
    null,      // nothing, ~ or null
    scalar,    // `text`
    sequence,  // `items`
    map,       // `entries`, keys unique, in order of appearance
    broken     // a problem has been reported; readers pass over it
  };

  const Entry* find(std::string_view key) const;  // null when absent or not a map

  Kind kind = Kind::null;
  Location at;
  bool quoted = false;  // the scalar stood in quotes or in a block: it is text and nothing else
  std::string text;
  std::vector<Node> items;
  std::vector<Entry> entries;
};

struct Entry {
  std::string key;
  Location at;  // of the key
  Node value;
};

class Tree {
 public:
  // Later sources win, leaf by leaf; a sequence replaces a sequence. A file that cannot be read is a problem, not an
  // exception.
  void add_file(const std::filesystem::path& path);
  void add_text(std::string_view text, const std::string& name);
  // "section.key=value". The value is taken literally unless it begins with one of [ { " ', so that a glob needs no
  // quotes.
  void add_override(const std::string& assignment);

  const Node& root() const { return root_; }
  // False after a syntax error: some values are missing, so that checks across fields would mislead.
  bool complete() const { return complete_; }

  void report(Location at, const std::string& path, const std::string& reason);
  // Throws one Error(usage) with a line a problem, in order of position: "file:line:column: section.key: reason".
  void fail_on_problems() const;

  // Files read, in order: "a.yaml"; overrides: "override 'train.steps=5'".
  const std::vector<std::string>& sources() const { return sources_; }

 private:
  struct Problem {
    Location at;
    std::string text;
  };
  void merge(Node& into, Node&& from);
  Node parse(std::string_view text, int source, bool is_override);

  Node root_;
  std::vector<std::string> sources_;
  std::vector<Problem> problems_;
  bool complete_ = true;
};

// `text` in single quotes for a message: control characters escaped, at most 60 bytes of it.
std::string quote(std::string_view text);

}  // namespace t6::config
