// Config structs: one list of fields reads YAML strictly, prints it and makes help.
//
//   struct ScheduleConfig {
//     int64_t warmup_steps = 2000;
//     template <class V>
//     void fields(V& v) {
//       v.field("warmup_steps", warmup_steps, "steps of linear rise to lr", config::at_least(0));
//     }
//     bool operator==(const ScheduleConfig&) const = default;
//   };
//
// Field types: int64_t, double, bool, std::string, std::chrono::seconds, enums with config_names(), std::optional of
// these, std::vector and std::array of these; v.section(name, struct, doc) nests; v.kind and v.kind_options tie a
// choice to a variant whose alternatives have options of their own. No other code reads YAML or options by string.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <initializer_list>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/config_scalar.h"
#include "base/config_tree.h"

namespace t6::config {

// One key of a section with its type erased.
struct Field {
  std::string_view name;
  std::string_view doc;
  std::function<std::string()> words;  // type and range
  std::function<Result(const Node&)> read;
  std::function<std::string()> print;
};

// What a list of fields is handed to.
class Visitor {
 public:
  virtual ~Visitor() = default;

  template <class T>
  void field(std::string_view name, T& value, std::string_view doc, const Range& range = {}) {
    leaf({name, doc, [range] { return Type<T>::words(range); },
          [&value, range](const Node& node) { return Type<T>::read(node, value, range); },
          [&value] { return Type<T>::print(value); }});
  }

  template <class S>
  void section(std::string_view name, S& options, std::string_view doc) {
    if (!enter(name, doc)) return;
    options.fields(*this);
    leave();
  }

  // Key `name` chooses the alternative of `options`; names[i] is the word for alternative i.
  template <class... Options>
  void kind(std::string_view name, std::variant<Options...>& options,
            const std::array<std::string_view, sizeof...(Options)>& names, std::string_view doc) {
    leaf({name, doc, [&names] { return join_names(names.data(), names.size()); },
          [&options, &names](const Node& node) -> Result {
            size_t index = options.index();
            if (Result fault = read_name(node, names.data(), names.size(), index)) return fault;
            if (index != options.index()) emplace(options, index, std::index_sequence_for<Options...>{});
            return {};
          },
          [&options, &names] { return std::string(names[options.index()]); }});
  }
  // One section an alternative, named as the alternative; only the chosen one's keys are valid. `chooser` is kind's
  // name.
  template <class... Options>
  void kind_options(std::string_view chooser, std::variant<Options...>& options,
                    const std::array<std::string_view, sizeof...(Options)>& names) {
    each_kind(chooser, options, names, std::index_sequence_for<Options...>{});
  }

 protected:
  virtual void leaf(const Field& field) = 0;
  // Whether the fields inside are wanted; leave() follows only then.
  virtual bool enter(std::string_view name, std::string_view doc) = 0;
  virtual bool enter_kind(std::string_view name, std::string_view chooser, bool chosen) = 0;
  virtual void leave() = 0;

 private:
  template <class Variant, size_t... I>
  static void emplace(Variant& options, size_t index, std::index_sequence<I...>) {
    ((index == I ? static_cast<void>(options.template emplace<I>()) : void()), ...);
  }
  template <class Variant, size_t... I>
  void each_kind(std::string_view chooser, Variant& options, const std::array<std::string_view, sizeof...(I)>& names,
                 std::index_sequence<I...>) {
    const auto visit = [&](std::string_view name, bool chosen, auto& own) {
      if (!enter_kind(name, chooser, chosen)) return;
      own.fields(*this);
      leave();
    };
    const size_t index = options.index();
    auto one = [&]<size_t K>(std::integral_constant<size_t, K>) {
      std::variant_alternative_t<K, Variant> unchosen{};
      visit(names[K], index == K, index == K ? std::get<K>(options) : unchosen);
    };
    (one(std::integral_constant<size_t, I>{}), ...);
  }
};

// Every key of a config in order, with its present value.
struct CatalogueEntry {
  std::string section;  // "model.tpa", "" at the root
  std::string name;
  std::string words;  // type and range
  std::string value;
  std::string doc;
  std::string only_under;  // "attention: tpa" for a key of one kind, else ""
  bool is_section = false;

  std::string path() const { return section.empty() ? name : section + "." + name; }
};
using Catalogue = std::vector<CatalogueEntry>;

class Cataloguer final : public Visitor {
 public:
  explicit Cataloguer(Catalogue& out) : out_(out) {}

 protected:
  void leaf(const Field& field) override;
  bool enter(std::string_view name, std::string_view doc) override;
  bool enter_kind(std::string_view name, std::string_view chooser, bool chosen) override;
  void leave() override;

 private:
  Catalogue& out_;
  std::string section_;
  std::vector<std::string> only_under_{""};
};

// Rules across fields. A rule names the keys it speaks of: the problem stands at the first of them that was written,
// and a rule on a key that already has a problem is passed over.
class Checks {
 public:
  explicit Checks(Tree& tree) : tree_(tree) {}

  template <class... Args>
  void require(bool holds, std::initializer_list<std::string_view> keys, fmt::format_string<Args...> format,
               Args&&... args) {
    if (!holds) broken(keys, fmt::format(format, std::forward<Args>(args)...));
  }
  // Whether a file or an override gave the key.
  bool was_written(std::string_view key) const { return written_.find(key) != written_.end(); }

 private:
  friend class Reader;
  void broken(std::span<const std::string_view> keys, const std::string& reason);
  void broken(std::initializer_list<std::string_view> keys, const std::string& reason) {
    broken(std::span(keys.begin(), keys.size()), reason);
  }

  Tree& tree_;
  std::map<std::string, Location, std::less<>> written_;
  std::set<std::string, std::less<>> bad_;
};

// Sets the fields that the tree gives; unknown keys and refused values become problems of the tree.
class Reader final : public Visitor {
 public:
  Reader(Tree& tree, std::function<Catalogue()> catalogue);
  // After the outermost fields(): reports the unknown keys of the root.
  Checks finish();

 protected:
  void leaf(const Field& field) override;
  bool enter(std::string_view name, std::string_view doc) override;
  bool enter_kind(std::string_view name, std::string_view chooser, bool chosen) override;
  void leave() override;

 private:
  struct Frame {
    const Node* node;  // null when the section is absent
    std::string path;
    std::vector<std::string_view> known;
  };
  std::string path_of(std::string_view name) const;
  std::string unknown_key(const Frame& frame, const std::string& key);
  void open(std::string_view name);

  Tree& tree_;
  std::function<Catalogue()> make_catalogue_;
  Catalogue catalogue_;  // made at the first unknown key
  std::vector<Frame> frames_;
  Checks checks_;
};

// Writes canonical YAML: two-space sections, keys in field order, every value stated.
class Printer final : public Visitor {
 public:
  std::string text;

 protected:
  void leaf(const Field& field) override;
  bool enter(std::string_view name, std::string_view doc) override;
  bool enter_kind(std::string_view name, std::string_view chooser, bool chosen) override;
  void leave() override;

 private:
  std::vector<std::string> pending_;  // headings of sections entered, cleared once written
};

template <class T>
Catalogue catalogue(T config) {
  Catalogue out;
  Cataloguer cataloguer(out);
  config.fields(cataloguer);
  return out;
}

// Reads the tree over the values `config` has. Problems stay in the tree (fail_on_problems throws them) until the
// caller has added its checks across fields.
template <class T>
Checks read(Tree& tree, T& config) {
  Reader reader(tree, [] { return catalogue(T{}); });
  config.fields(reader);
  return reader.finish();
}

template <class T>
std::string to_yaml(T config) {
  Printer printer;
  config.fields(printer);
  return printer.text;
}

// A table of every key: type and range, default, meaning.
std::string help_table(const Catalogue& catalogue);

}  // namespace t6::config
