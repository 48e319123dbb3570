#include "base/config.h"

#include <algorithm>

namespace t6::config {
namespace {

std::string parent_of(const std::string& path) {
  const size_t dot = path.rfind('.');
  return dot == std::string::npos ? "" : path.substr(0, dot);
}

std::string join_path(const std::string& section, std::string_view name) {
  return section.empty() ? std::string(name) : fmt::format("{}.{}", section, name);
}

// A key as part of a path: as it is, or quoted and cut when it is long or strange.
std::string shown(const std::string& key) {
  const std::string quoted = quote(key);
  return !key.empty() && quoted.size() == key.size() + 2 ? key : quoted;
}

}  // namespace

// ---- Cataloguer

void Cataloguer::leaf(const Field& field) {
  out_.push_back({section_, std::string(field.name), field.words(), field.print(), std::string(field.doc),
                  only_under_.back(), false});
}

bool Cataloguer::enter(std::string_view name, std::string_view doc) {
  out_.push_back({section_, std::string(name), "section", "", std::string(doc), only_under_.back(), true});
  section_ = join_path(section_, name);
  only_under_.push_back(only_under_.back());
  return true;
}

bool Cataloguer::enter_kind(std::string_view name, std::string_view chooser, bool) {
  enter(name, fmt::format("options of {}: {}", chooser, name));
  only_under_.back() = fmt::format("{}: {}", chooser, name);
  return true;
}

void Cataloguer::leave() {
  section_ = parent_of(section_);
  only_under_.pop_back();
}

// ---- Checks

void Checks::broken(std::span<const std::string_view> keys, const std::string& reason) {
  Location at;
  std::string name;
  for (const std::string_view key : keys) {
    if (bad_.find(key) != bad_.end()) return;
    const auto written = written_.find(key);
    if (name.empty() && written != written_.end()) {
      at = written->second;
      name = key;
    }
  }
  if (!tree_.complete()) return;
  tree_.report(at, name.empty() ? std::string(keys.front()) : name, reason);
}

// ---- Reader

Reader::Reader(Tree& tree, std::function<Catalogue()> catalogue)
    : tree_(tree), make_catalogue_(std::move(catalogue)), checks_(tree) {
  frames_.push_back({&tree.root(), "", {}});
}

std::string Reader::path_of(std::string_view name) const {
  return join_path(frames_.back().path, name);
}

void Reader::leaf(const Field& field) {
  Frame& frame = frames_.back();
  frame.known.push_back(field.name);
  const Entry* entry = frame.node ? frame.node->find(field.name) : nullptr;
  if (!entry) return;
  const std::string path = path_of(field.name);
  if (entry->value.kind == Node::Kind::broken) {
    checks_.bad_.insert(path);
  } else if (const Result fault = field.read(entry->value)) {
    tree_.report(fault->at, path, fault->reason);
    checks_.bad_.insert(path);
  } else {
    checks_.written_[path] = entry->value.at;
  }
}

void Reader::open(std::string_view name) {
  const Frame& frame = frames_.back();
  const Entry* entry = frame.node ? frame.node->find(name) : nullptr;
  Frame inner{entry ? &entry->value : nullptr, path_of(name), {}};
  if (inner.node && inner.node->kind != Node::Kind::map) {
    if (inner.node->kind == Node::Kind::scalar || inner.node->kind == Node::Kind::sequence) {
      tree_.report(inner.node->at, inner.path, expected(*inner.node, "a section of keys and values").reason);
    }
    inner.node = nullptr;
  }
  frames_.push_back(std::move(inner));
}

bool Reader::enter(std::string_view name, std::string_view) {
  frames_.back().known.push_back(name);
  open(name);
  return true;
}

bool Reader::enter_kind(std::string_view name, std::string_view chooser, bool chosen) {
  Frame& frame = frames_.back();
  frame.known.push_back(name);
  const bool sure = checks_.bad_.find(path_of(chooser)) == checks_.bad_.end();
  if (chosen && sure) {
    open(name);
    return true;
  }
  const Entry* entry = frame.node ? frame.node->find(name) : nullptr;
  if (!entry || !sure) return false;
  const std::string reason = fmt::format("is valid only under {}: {}", path_of(chooser), name);
  if (entry->value.entries.empty()) tree_.report(entry->at, path_of(name), reason);
  for (const Entry& key : entry->value.entries) {
    tree_.report(key.at, join_path(path_of(name), shown(key.key)), reason);
  }
  return false;
}

void Reader::leave() {
  const Frame frame = std::move(frames_.back());
  frames_.pop_back();
  if (!frame.node) return;
  for (const Entry& entry : frame.node->entries) {
    if (std::find(frame.known.begin(), frame.known.end(), entry.key) != frame.known.end()) continue;
    tree_.report(entry.at, join_path(frame.path, shown(entry.key)), unknown_key(frame, entry.key));
  }
}

Checks Reader::finish() {
  leave();
  return std::move(checks_);
}

std::string Reader::unknown_key(const Frame& frame, const std::string& key) {
  if (catalogue_.empty()) catalogue_ = make_catalogue_();
  std::string elsewhere;
  int places = 0;
  for (const CatalogueEntry& entry : catalogue_) {
    if (entry.name != key || entry.is_section || places == 4) continue;
    const std::string under = entry.only_under.empty() ? "" : fmt::format(" (valid under {})", entry.only_under);
    elsewhere += fmt::format("{}'{}'{}", places++ ? " or " : "", entry.path(), under);
  }
  const std::string nearest = nearest_name(key, frame.known.data(), frame.known.size());
  if (places > 0 && !nearest.empty()) {
    return fmt::format("unknown key here; nearest is '{}', or did you mean {}", nearest, elsewhere);
  }
  if (places > 0) return fmt::format("unknown key here; did you mean {}", elsewhere);
  if (!nearest.empty()) return fmt::format("unknown key; nearest is '{}'", nearest);
  constexpr size_t kListed = 24;
  if (!frame.known.empty() && frame.known.size() <= kListed) {
    return fmt::format("unknown key; expected {}", join_names(frame.known.data(), frame.known.size()));
  }
  return "unknown key";
}

// ---- Printer

void Printer::leaf(const Field& field) {
  for (size_t depth = 0; depth < pending_.size(); ++depth) {
    if (pending_[depth].empty()) continue;
    text += fmt::format("{:{}}{}:\n", "", 2 * depth, pending_[depth]);
    pending_[depth].clear();
  }
  text += fmt::format("{:{}}{}: {}\n", "", 2 * pending_.size(), field.name, field.print());
}

bool Printer::enter(std::string_view name, std::string_view) {
  pending_.emplace_back(name);
  return true;
}

bool Printer::enter_kind(std::string_view name, std::string_view, bool chosen) {
  return chosen && enter(name, "");
}

void Printer::leave() {
  pending_.pop_back();
}

// ---- Help

std::string help_table(const Catalogue& catalogue) {
  size_t name_width = 0, words_width = 0, value_width = 0;
  for (const CatalogueEntry& entry : catalogue) {
    if (entry.is_section) continue;
    name_width = std::max(name_width, entry.name.size());
    words_width = std::max(words_width, entry.words.size());
    value_width = std::max(value_width, entry.value.size());
  }
  words_width = std::min<size_t>(words_width, 38);
  value_width = std::min<size_t>(value_width, 14);
  std::string out;
  for (size_t i = 0; i < catalogue.size(); ++i) {
    const CatalogueEntry& entry = catalogue[i];
    if (entry.is_section) {
      const bool has_keys = i + 1 < catalogue.size() && catalogue[i + 1].section == entry.path();
      if (has_keys) out += fmt::format("\n{}: {}\n", entry.path(), entry.doc);
    } else {
      out += fmt::format("  {:<{}}  {:<{}}  {:<{}}  {}\n", entry.name, name_width, entry.words, words_width,
                         entry.value, value_width, entry.doc);
    }
  }
  return out;
}

}  // namespace t6::config
