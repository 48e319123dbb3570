#include "base/config_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <sstream>
#include <unordered_set>

#include "base/error.h"
#include "base/io.h"
#include "base/printable.h"
#include "base/utf8.h"

namespace t6::config {
namespace {

// Length of the UTF-8 character at text[i], 0 when it is none.
size_t utf8_length(std::string_view text, size_t i) {
  return static_cast<size_t>(std::max(0, utf8::first(text.substr(i)).bytes));
}

// The text of a scalar. yaml-cpp makes single bytes, as in Latin-1, of the escapes \N and \_ (U+0085, U+00A0).
std::string in_utf8(const std::string& text) {
  std::string mended;
  for (size_t i = 0; i < text.size();) {
    const size_t length = utf8_length(text, i);
    if (length == 0) mended += '\xC2';
    mended.append(text, i, std::max<size_t>(length, 1));
    i += std::max<size_t>(length, 1);
  }
  return mended;
}

// Ends a parse whose remainder is of no use: a limit was passed or a second document began.
struct Stop {
  Location at;
  std::string reason;
};

// Builds a Node tree from yaml-cpp's events. What yaml-cpp 0.7 lets pass (duplicate keys, aliases, tags, ...) ends
// here.
class Builder final : public YAML::EventHandler {
 public:
  using Report = std::vector<std::pair<Location, std::string>>;
  Builder(std::string_view text, int source, bool is_override, Report& report)
      : text_(text), source_(source), is_override_(is_override), report_(report) {}

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (documents_++) throw Stop{at(mark), "expected one document, but a second one begins here"};
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    Node node = begin(mark, Node::Kind::null);
    refuse_anchor(node, anchor);
    attach(std::move(node));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    Node node = begin(mark, Node::Kind::broken);
    report(node.at, "aliases (*name) are not allowed; write the value out");
    attach(std::move(node));
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    Node node = begin(mark, Node::Kind::scalar);
    node.text = in_utf8(value);
    node.quoted = tag == "!";
    const bool shorthand = node.quoted && static_cast<size_t>(mark.pos) < text_.size() && text_[mark.pos] == '!';
    if (shorthand || (tag != "?" && tag != "!" && !tag.empty())) refuse_tag(node);
    refuse_anchor(node, anchor);
    attach(std::move(node));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, Node::Kind::sequence);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, anchor, Node::Kind::map);
  }
  void OnMapEnd() override { close(); }

  // A syntax error came: the last value is suspect, it may have been cut or joined with what follows.
  void distrust_last() {
    if (open_.empty() || open_.back().node.entries.empty()) return;
    Frame& frame = open_.back();
    if (frame.node.kind == Node::Kind::map && frame.at_key) frame.node.entries.back().value.kind = Node::Kind::broken;
  }

  // The tree; after an interrupted parse, what was finished of it.
  Node take() {
    while (!open_.empty()) {
      Frame frame = std::move(open_.back());
      open_.pop_back();
      if (frame.node.kind == Node::Kind::sequence)
        frame.node = Node{Node::Kind::broken, frame.node.at, false, {}, {}, {}};
      attach(std::move(frame.node));
    }
    return std::move(root_);
  }

 private:
  struct Frame {
    Node node;
    std::unordered_set<std::string> keys;
    bool at_key = true;  // the next event of a map is a key
    bool keep = true;    // the key is good, its value is wanted
    std::string key;
    Location key_at;
  };

  Location at(const YAML::Mark& mark) const {
    if (is_override_) return {source_, 0, 0};
    return {source_, mark.line + 1, mark.column + 1};
  }
  void report(Location where, std::string reason) { report_.emplace_back(where, std::move(reason)); }

  Node begin(const YAML::Mark& mark, Node::Kind kind) {
    if (++values_ > kMaxValues) throw Stop{{source_, 0, 0}, fmt::format("more than {} values", kMaxValues)};
    Node node;
    node.kind = kind;
    node.at = at(mark);
    return node;
  }
  void refuse_anchor(Node& node, YAML::anchor_t anchor) {
    if (anchor == 0) return;
    report(node.at, "anchors (&name) are not allowed; write the value out");
    node.kind = Node::Kind::broken;
  }
  void refuse_tag(Node& node) {
    report(node.at, "tags (!name) are not allowed; write the value alone");
    node.kind = Node::Kind::broken;
  }

  void open(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, Node::Kind kind) {
    Frame frame;
    frame.node = begin(mark, kind);
    if (open_.size() >= kMaxDepth) throw Stop{frame.node.at, fmt::format("nested deeper than {} levels", kMaxDepth)};
    Node mark_only = frame.node;
    if (tag != "?" && !tag.empty()) refuse_tag(mark_only);
    refuse_anchor(mark_only, anchor);
    open_.push_back(std::move(frame));
  }
  void close() {
    Node node = std::move(open_.back().node);
    open_.pop_back();
    attach(std::move(node));
  }

  void attach(Node node) {
    if (open_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& frame = open_.back();
    if (frame.node.kind == Node::Kind::sequence) {
      frame.node.items.push_back(std::move(node));
    } else if (frame.at_key) {
      take_key(frame, std::move(node));
      frame.at_key = false;
    } else {
      if (node.kind == Node::Kind::null) node.at = frame.key_at;  // yaml-cpp puts it on the next line
      if (frame.keep) frame.node.entries.push_back({std::move(frame.key), frame.key_at, std::move(node)});
      frame.at_key = true;
    }
  }
  void take_key(Frame& frame, Node key) {
    frame.keep = false;
    if (key.kind == Node::Kind::broken) return;
    if (key.kind != Node::Kind::scalar) {
      report(key.at, "expected a text as key");
    } else if (!frame.keys.insert(key.text).second) {
      report(key.at, fmt::format("duplicate key {}", quote(key.text)));
    } else {
      frame.keep = true;
      frame.key = std::move(key.text);
      frame.key_at = key.at;
    }
  }

  std::string_view text_;
  int source_;
  bool is_override_;
  Report& report_;
  std::vector<Frame> open_;
  Node root_;
  size_t values_ = 0;
  int documents_ = 0;
};

// Where the text stops being UTF-8 without control characters; yaml-cpp would guess another encoding instead.
bool find_bad_byte(std::string_view text, int& line, int& column) {
  line = column = 1;
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    const size_t length = utf8_length(text, i);
    if (length == 0 || c == 0x7F || (c < 0x20 && c != '\n' && c != '\t' && c != '\r')) return true;
    column = c == '\n' ? 1 : column + static_cast<int>(length);
    line += c == '\n';
    i += length;
  }
  return false;
}

// yaml-cpp's scanner runs far ahead through open brackets (250 MiB of memory for 1 MiB of them) before the Builder sees
// the first. Brackets in texts count too, hence the generous limit.
constexpr int kMaxOpenBrackets = 1000;

bool find_bracket_flood(std::string_view text) {
  int depth = 0;
  for (const char c : text) {
    if (c == '[' || c == '{') ++depth;
    if ((c == ']' || c == '}') && depth > 0) --depth;
    if (depth > kMaxOpenBrackets) return true;
  }
  return false;
}

}  // namespace

std::string quote(std::string_view text) {
  return fmt::format("'{}'", printable(text));
}

const Entry* Node::find(std::string_view key) const {
  for (const Entry& entry : entries) {
    if (entry.key == key) return &entry;
  }
  return nullptr;
}

Node Tree::parse(std::string_view text, int source, bool is_override) {
  Location at{source, 1, 1};
  if (text.size() > kMaxFileBytes) {
    complete_ = false;
    report({source, 0, 0}, "", fmt::format("larger than {} bytes", kMaxFileBytes));
    return {};
  }
  if (text.substr(0, 3) == "\xEF\xBB\xBF") text.remove_prefix(3);
  if (find_bad_byte(text, at.line, at.column)) {
    complete_ = false;
    report(is_override ? Location{source, 0, 0} : at, "", "expected UTF-8 text without control characters");
    return {};
  }
  if (find_bracket_flood(text)) {
    complete_ = false;
    report({source, 0, 0}, "",
           fmt::format("nested deeper than {} levels: more than {} open brackets", kMaxDepth, kMaxOpenBrackets));
    return {};
  }
  Builder::Report found;
  Builder builder(text, source, is_override, found);
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    complete_ = false;
    builder.distrust_last();
    // A null mark is yaml-cpp's "somewhere".
    const bool placed = !is_override && error.mark.line >= 0;
    found.emplace_back(placed ? Location{source, error.mark.line + 1, error.mark.column + 1} : Location{source, 0, 0},
                       fmt::format("not valid YAML: {}", error.msg));
  } catch (const Stop& stop) {
    complete_ = false;
    found.emplace_back(stop.at, stop.reason);
  }
  for (const auto& [where, reason] : found) report(where, "", reason);
  return builder.take();
}

void Tree::add_text(std::string_view text, const std::string& name) {
  const int source = static_cast<int>(sources_.size());
  sources_.push_back(name);
  Node node = parse(text, source, false);
  if (node.kind == Node::Kind::map) {
    merge(root_, std::move(node));
  } else if (node.kind != Node::Kind::null && node.kind != Node::Kind::broken) {
    complete_ = false;
    report(node.at, "", "expected sections such as 'train:' with keys below them");
  }
}

void Tree::add_file(const std::filesystem::path& path) {
  std::string text;
  try {
    text = io::read_text(path, kMaxFileBytes);
  } catch (const Error& error) {
    complete_ = false;
    sources_.push_back(path.string());
    report({static_cast<int>(sources_.size()) - 1, 0, 0}, "", error.what());
    return;
  }
  add_text(text, path.string());
}

void Tree::add_override(const std::string& assignment) {
  const Location at{static_cast<int>(sources_.size()), 0, 0};
  sources_.push_back(fmt::format("override {}", quote(assignment)));
  const size_t equals = assignment.find('=');
  const std::string path = assignment.substr(0, equals);
  const bool is_path =
      !path.empty() && path.front() != '.' && path.back() != '.' && path.find("..") == std::string::npos &&
      std::all_of(path.begin(), path.end(),
                  [](unsigned char c) { return c == '.' || c == '_' || (c < 0x80 && std::isalnum(c)); });
  if (equals == std::string::npos || !is_path) {
    report(at, "", "expected section.key=value, such as train.steps=1000");
    return;
  }
  if (static_cast<size_t>(std::count(path.begin(), path.end(), '.')) >= kMaxDepth) {
    report(at, "", fmt::format("nested deeper than {} levels", kMaxDepth));
    return;
  }
  const std::string value = assignment.substr(equals + 1);
  Node node;
  if (!value.empty() && std::string_view("[{\"'").find(value.front()) != std::string_view::npos) {
    const size_t before = problems_.size();
    node = parse(value, at.source, true);
    if (problems_.size() > before) node.kind = Node::Kind::broken;
  } else if (int line = 0, column = 0; find_bad_byte(value, line, column)) {
    report(at, path, "expected UTF-8 text without control characters");
    return;
  } else if (!value.empty() && value != "null" && value != "~") {
    node.kind = Node::Kind::scalar;
    node.text = value;
  }
  node.at = at;
  for (size_t end = path.size(); end != std::string::npos && end > 0;) {
    const size_t dot = path.rfind('.', end - 1);
    const size_t begin = dot == std::string::npos ? 0 : dot + 1;
    Node parent;
    parent.kind = Node::Kind::map;
    parent.at = at;
    parent.entries.push_back({path.substr(begin, end - begin), at, std::move(node)});
    node = std::move(parent);
    end = dot;
  }
  merge(root_, std::move(node));
}

void Tree::merge(Node& into, Node&& from) {
  if (into.kind == Node::Kind::map && from.kind == Node::Kind::null) return;  // an empty section says nothing
  if (into.kind != Node::Kind::map || from.kind != Node::Kind::map) {
    into = std::move(from);
    return;
  }
  std::unordered_map<std::string, size_t> index;
  for (size_t i = 0; i < into.entries.size(); ++i) index.emplace(into.entries[i].key, i);
  into.at = from.at;
  for (Entry& entry : from.entries) {
    const auto known = index.find(entry.key);
    if (known == index.end()) {
      into.entries.push_back(std::move(entry));
    } else {
      into.entries[known->second].at = entry.at;
      merge(into.entries[known->second].value, std::move(entry.value));
    }
  }
}

void Tree::report(Location at, const std::string& path, const std::string& reason) {
  std::string text;
  if (at.source >= 0) text = sources_.at(static_cast<size_t>(at.source));
  if (at.line > 0) text += fmt::format(":{}:{}", at.line, at.column);
  if (!text.empty()) text += ": ";
  if (!path.empty()) text += path + ": ";
  problems_.push_back({at, text + reason});
}

void Tree::fail_on_problems() const {
  if (problems_.empty()) return;
  std::vector<Problem> sorted = problems_;
  std::stable_sort(sorted.begin(), sorted.end(), [](const Problem& a, const Problem& b) {
    return std::tie(a.at.source, a.at.line, a.at.column) < std::tie(b.at.source, b.at.line, b.at.column);
  });
  std::string message;
  for (size_t i = 0; i < std::min(sorted.size(), kMaxProblemsShown); ++i) message += (i ? "\n" : "") + sorted[i].text;
  if (sorted.size() > kMaxProblemsShown)
    message += fmt::format("\nand {} more problems", sorted.size() - kMaxProblemsShown);
  throw Error(ExitCode::usage, message);
}

}  // namespace t6::config
