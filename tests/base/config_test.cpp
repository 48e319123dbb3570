// The strict reader: YAML's traps, typed values, messages with position, merging, printing and limits.
#include "base/config.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <cmath>
#include <fstream>

#include "base/error.h"
#include "base/rng.h"

namespace t6::config {
namespace {

using std::string_literals::operator""s;
using std::string_view_literals::operator""sv;

enum class Color { red, dark_blue };
constexpr std::array<std::string_view, 2> config_names(Color) {
  return {"red", "dark_blue"};
}

struct Round {
  int64_t radius = 1;
  template <class V>
  void fields(V& v) {
    v.field("radius", radius, "radius in mm", at_least(1));
  }
  bool operator==(const Round&) const = default;
};
struct Square {
  template <class V>
  void fields(V&) {}
  bool operator==(const Square&) const = default;
};
constexpr std::array<std::string_view, 2> kShapes{"round", "square"};

struct Inner {
  double ratio = 0.5;
  bool fast = false;
  std::chrono::seconds limit{90};
  template <class V>
  void fields(V& v) {
    v.field("ratio", ratio, "a share", range_below(0, 1));
    v.field("fast", fast, "speed");
    v.field("limit", limit, "time");
  }
  bool operator==(const Inner&) const = default;
};

struct Sample {
  int64_t count = 3;
  std::string name = "plain";
  Color color = Color::red;
  std::optional<int64_t> top;
  std::vector<std::string> files;
  std::vector<int64_t> sizes{1, 2};
  std::array<double, 2> betas{0.9, 0.95};
  Inner inner;
  std::variant<Round, Square> shape;
  template <class V>
  void fields(V& v) {
    v.field("count", count, "how many", range(1, 1e6));
    v.field("name", name, "what it is called");
    v.field("color", color, "paint");
    v.field("top", top, "highest", at_least(0));
    v.field("files", files, "globs");
    v.field("sizes", sizes, "sizes", at_least(0));
    v.field("betas", betas, "moments", range_below(0, 1));
    v.section("inner", inner, "the inside");
    v.kind("shape", shape, kShapes, "outline");
    v.kind_options("shape", shape, kShapes);
  }
  bool operator==(const Sample&) const = default;
};

Sample read_sample(std::string_view text, std::vector<std::string> overrides = {}) {
  Tree tree;
  tree.add_text(text, "a.yaml");
  for (const std::string& o : overrides) tree.add_override(o);
  Sample sample;
  read(tree, sample);
  tree.fail_on_problems();
  return sample;
}

std::string problems(std::string_view text, std::vector<std::string> overrides = {}) {
  try {
    read_sample(text, std::move(overrides));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    return error.what();
  }
  return "read without a problem";
}

TEST(Config, ReadsEveryType) {
  const Sample s = read_sample(
      "count: 600_000\nname: \"a b\"\ncolor: dark_blue\ntop: 7\nfiles: [a/*.bin, 'b']\nsizes:\n  - 4\n  - 5\n"
      "betas: [0.8, 0]\ninner: {ratio: 2.5e-1, fast: true, limit: 2h30m}\nshape: round\nround: {radius: 9}\n");
  EXPECT_EQ(s.count, 600000);
  EXPECT_EQ(s.name, "a b");
  EXPECT_EQ(s.color, Color::dark_blue);
  EXPECT_EQ(s.top, 7);
  EXPECT_EQ(s.files, (std::vector<std::string>{"a/*.bin", "b"}));
  EXPECT_EQ(s.sizes, (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(s.betas, (std::array<double, 2>{0.8, 0}));
  EXPECT_EQ(s.inner.ratio, 0.25);
  EXPECT_TRUE(s.inner.fast);
  EXPECT_EQ(s.inner.limit, std::chrono::seconds(9000));
  EXPECT_EQ(std::get<Round>(s.shape).radius, 9);
  EXPECT_EQ(read_sample("top: null\n", {"top=5", "top="}).top, std::nullopt);
  EXPECT_EQ(read_sample("files: one.bin\n").files, std::vector<std::string>{"one.bin"});
  EXPECT_EQ(read_sample(""), Sample{});
  EXPECT_EQ(read_sample("# only a comment\n"), Sample{});
  EXPECT_EQ(read_sample("inner:\n"), Sample{});
  EXPECT_EQ(read_sample("\xEF\xBB\xBF%YAML 1.2\n---\r\ncount: 4\r\n").count, 4);
}

TEST(Config, IntegersAreExact) {
  const std::vector<std::pair<std::string, int64_t>> good{{"0", 0},
                                                          {"-3", -3},
                                                          {"1e5", 100000},
                                                          {"1.5e3", 1500},
                                                          {"1_000_000", 1000000},
                                                          {"100000e-2", 1000},
                                                          {"9223372036854775807", INT64_MAX},
                                                          {"-9223372036854775808", INT64_MIN},
                                                          {"0e999", 0}};
  for (const auto& [text, value] : good) {
    int64_t got = -77;
    EXPECT_EQ(parse_integer(text, got), std::nullopt) << text;
    EXPECT_EQ(got, value) << text;
  }
  for (const std::string text : {"",
                                 "-",
                                 "010",
                                 "00",
                                 "0_1",
                                 "0x10",
                                 "0b1",
                                 "0o7",
                                 "1.0",
                                 "1e-1",
                                 "1.55e1",
                                 "_1",
                                 "1_",
                                 "1__0",
                                 "+1",
                                 "1 ",
                                 "1e",
                                 "e5",
                                 "abc",
                                 "9223372036854775808",
                                 "-9223372036854775809",
                                 "1e19",
                                 "1e99999999999999999999",
                                 "true",
                                 ".5",
                                 "1a",
                                 "nan"}) {
    int64_t got = -77;
    EXPECT_TRUE(parse_integer(text, got)) << text;
    EXPECT_EQ(got, -77) << text;
  }
}

TEST(Config, NumbersAreFiniteAndDecimal) {
  for (const auto& [text, value] : std::vector<std::pair<std::string, double>>{{"0.1", 0.1},
                                                                               {"6e-4", 6e-4},
                                                                               {"1_000.5", 1000.5},
                                                                               {"-2", -2},
                                                                               {"1E+3", 1000},
                                                                               {"1.1920929e-07", 1.1920929e-07}}) {
    double got = -77;
    EXPECT_EQ(parse_number(text, got), std::nullopt) << text;
    EXPECT_EQ(got, value) << text;
  }
  for (const std::string text :
       {".nan", "nan", "inf", ".inf", "-.inf", "1e999", "1e-999", "0x1p3", "010.5", "1.", ".5", "1,5", ""}) {
    double got = -77;
    EXPECT_TRUE(parse_number(text, got)) << text;
    EXPECT_EQ(got, -77) << text;
  }
}

TEST(Config, DurationsReadAndPrint) {
  for (const auto& [text, seconds, printed] : std::vector<std::tuple<std::string, int64_t, std::string>>{
           {"90", 90, "1m30s"}, {"90s", 90, "1m30s"}, {"2h30m", 9000, "2h30m"}, {"1d", 86400, "1d"}, {"0", 0, "0s"}}) {
    std::chrono::seconds got{};
    EXPECT_EQ(parse_duration(text, got), std::nullopt) << text;
    EXPECT_EQ(got.count(), seconds) << text;
    EXPECT_EQ(print_duration(got), printed);
  }
  for (const std::string text :
       {"", "h", "2h30", "30m2h", "1h1h", "1.5h", "-1s", "-5", "99999d", "9e18", "1 h", "99999999999999999999s"}) {
    std::chrono::seconds got{-77};
    EXPECT_TRUE(parse_duration(text, got)) << text;
    EXPECT_EQ(got.count(), -77) << text;
  }
}

// What yaml-cpp 0.7 itself lets pass or gets wrong.
TEST(Config, YamlTrapsAreProblemsWithPosition) {
  EXPECT_EQ(problems("count: 1\nname: x\ncount: 2\n"), "a.yaml:3:1: duplicate key 'count'");
  EXPECT_EQ(problems("inner: {fast: true, fast: true}\n"), "a.yaml:1:21: duplicate key 'fast'");
  EXPECT_EQ(problems("count: 1\n---\nname: x\n"), "a.yaml:2:1: expected one document, but a second one begins here");
  EXPECT_EQ(problems("count: 1\n...\nname: x\n"), "a.yaml:3:1: expected one document, but a second one begins here");
  EXPECT_EQ(problems("count: 010\n"),
            "a.yaml:1:8: count: expected an integer in [1, 1000000], got '010'; a leading zero could mean octal; write "
            "it without");
  EXPECT_EQ(problems("inner:\n  ratio: .nan\n"), "a.yaml:2:10: inner.ratio: expected a number in [0, 1), got '.nan'");
  EXPECT_EQ(problems("count: &x 1\n"), "a.yaml:1:8: anchors (&name) are not allowed; write the value out");
  EXPECT_EQ(problems("inner: &x {fast: true}\nround:\n  <<: *x\n"),
            "a.yaml:1:8: anchors (&name) are not allowed; write the value out\n"
            "a.yaml:3:3: round.<<: unknown key; expected radius\n"
            "a.yaml:3:7: aliases (*name) are not allowed; write the value out");
  // yaml-cpp 0.8 adds the anchor's name.
  EXPECT_EQ(problems("count: *x\n").substr(0, 64), "a.yaml:1:8: not valid YAML: the referenced anchor is not defined");
  EXPECT_EQ(problems("count: !!int 3\n"), "a.yaml:1:8: tags (!name) are not allowed; write the value alone");
  EXPECT_EQ(problems("name: ! 3\n"), "a.yaml:1:7: tags (!name) are not allowed; write the value alone");
  EXPECT_EQ(problems("inner: !map {}\n"), "a.yaml:1:8: tags (!name) are not allowed; write the value alone");
  EXPECT_EQ(problems("&k count: 3\n"), "a.yaml:1:1: anchors (&name) are not allowed; write the value out");
  EXPECT_EQ(problems("[1, 2]: 3\n"), "a.yaml:1:1: expected a text as key");
  EXPECT_EQ(problems("~: 3\n"), "a.yaml:1:1: expected a text as key");
  EXPECT_EQ(problems("? {a: 1}\n: 4\n"), "a.yaml:1:3: expected a text as key");
  EXPECT_EQ(problems("- 1\n"), "a.yaml:1:1: expected sections such as 'train:' with keys below them");
  EXPECT_EQ(problems("count 1\n"), "a.yaml:1:1: expected sections such as 'train:' with keys below them");
  EXPECT_EQ(problems("count: 1\n\tname: x\n"), "a.yaml:2:1: not valid YAML: illegal tab when looking for indentation");
  EXPECT_EQ(problems("count: \"3\"\n"),
            "a.yaml:1:8: count: expected an integer in [1, 1000000], got the text '3'; write it without quotes");
  EXPECT_EQ(problems("count:\n"), "a.yaml:1:1: count: expected an integer in [1, 1000000], got nothing");
  EXPECT_EQ(problems("name: caf\xE9\n"), "a.yaml:1:10: expected UTF-8 text without control characters");
  EXPECT_EQ(problems("\xFF\xFE"
                     "c\0"s),
            "a.yaml:1:1: expected UTF-8 text without control characters");
  EXPECT_EQ(problems("count: 1\nname: a\0b\n"s), "a.yaml:2:8: expected UTF-8 text without control characters");
  EXPECT_EQ(problems("name: \"a\\0b\"\n"),
            "a.yaml:1:7: name: expected a text of one line without control characters, got the text 'a\\x00b'");
}

// What the escapes of a text stand for is UTF-8, and what is printed reads back.
TEST(Config, EscapedCharactersAreThoseOfYaml) {
  const std::pair<const char*, const char*> escapes[]{{"\\_", "\u00A0"},
                                                      {"\\N", "\u0085"},
                                                      {"\\L", "\u2028"},
                                                      {"\\P", "\u2029"},
                                                      {"\\xE9", "\u00E9"},
                                                      {"\\u00e9", "\u00E9"},
                                                      {"\u00E9\\_", "\u00E9\u00A0"},
                                                      {"\\U0001F600", "\U0001F600"}};
  for (const auto& [escape, character] : escapes) {
    const Sample sample = read_sample(fmt::format("name: \"a{}b\"\n", escape));
    EXPECT_EQ(sample.name, fmt::format("a{}b", character)) << escape;
    EXPECT_EQ(read_sample(to_yaml(sample)).name, sample.name) << escape;
  }
}

TEST(Config, MessagesNameTheKeyTheReasonAndTheNearest) {
  EXPECT_EQ(problems("coumt: 1\n"), "a.yaml:1:1: coumt: unknown key; nearest is 'count'");
  EXPECT_EQ(problems("inner:\n  ratoi: 0.1\n"), "a.yaml:2:3: inner.ratoi: unknown key; nearest is 'ratio'");
  EXPECT_EQ(problems("fast: true\n"), "a.yaml:1:1: fast: unknown key here; did you mean 'inner.fast'");
  EXPECT_EQ(problems("inner: {zzzzzz: 1}\n"), "a.yaml:1:9: inner.zzzzzz: unknown key; expected ratio, fast or limit");
  EXPECT_EQ(problems("inner: 5\n"), "a.yaml:1:8: inner: expected a section of keys and values, got '5'");
  EXPECT_EQ(problems("color: darkblue\n"),
            "a.yaml:1:8: color: expected red or dark_blue, got 'darkblue'; nearest is 'dark_blue'");
  EXPECT_EQ(problems("inner: {fast: yes}\n"), "a.yaml:1:15: inner.fast: expected true or false, got 'yes'");
  EXPECT_EQ(problems("sizes: [1, x]\n"), "a.yaml:1:12: sizes: expected an integer >= 0, got 'x'");
  EXPECT_EQ(problems("sizes: 4\n"), "a.yaml:1:8: sizes: expected a list [a, b, ...] of: integer >= 0, got '4'");
  EXPECT_EQ(problems("betas: [0.1]\n"), "a.yaml:1:8: betas: expected a list of exactly 2 values, got 1");
  EXPECT_EQ(problems("name: [a]\n"), "a.yaml:1:7: name: expected a text, got a list");
  EXPECT_EQ(problems("shape: square\nround:\n  radius: 4\n"),
            "a.yaml:3:3: round.radius: is valid only under shape: round");
  EXPECT_EQ(problems("shape: square\nround: {}\n"), "a.yaml:2:1: round: is valid only under shape: round");
  EXPECT_EQ(problems("radius: 4\n"),
            "a.yaml:1:1: radius: unknown key here; did you mean 'round.radius' (valid under shape: round)");
  EXPECT_EQ(problems("shape: sqare\nround:\n  radius: 4\n"),
            "a.yaml:1:8: shape: expected round or square, got 'sqare'; nearest is 'square'");
}

TEST(Config, AllProblemsAtOnceInOrderOfPosition) {
  EXPECT_EQ(problems("count: 0\ninner:\n  fast: 1\n  x9: 2\ncount: 5\ntop: -1\n", {"top=x", "count=1e9", "nonsense"}),
            "a.yaml:3:9: inner.fast: expected true or false, got '1'\n"
            "a.yaml:4:3: inner.x9: unknown key; expected ratio, fast or limit\n"
            "a.yaml:5:1: duplicate key 'count'\n"
            "override 'top=x': top: expected an integer >= 0, got 'x'\n"
            "override 'count=1e9': count: expected an integer in [1, 1000000], got '1e9'\n"
            "override 'nonsense': expected section.key=value, such as train.steps=1000");
  // What stands before a syntax error is still checked.
  EXPECT_EQ(problems("count: 0\ninner: {fast: 3, ratio: [1\n"),
            "a.yaml:1:8: count: expected an integer in [1, 1000000], got '0'\n"
            "a.yaml:2:15: inner.fast: expected true or false, got '3'\n"
            "a.yaml:3:1: not valid YAML: end of sequence flow not found");
}

TEST(Config, LaterSourcesWinLeafByLeaf) {
  Tree tree;
  tree.add_text("count: 5\nfiles: [a, b]\ninner: {ratio: 0.1, fast: true}\n", "a.yaml");
  tree.add_text("files: [c]\ninner:\n  ratio: 0.2\n", "b.yaml");
  tree.add_text("inner:\n", "c.yaml");
  tree.add_override("count=7");
  tree.add_override("inner.limit=5m");
  tree.add_override("count=8");
  Sample s;
  Checks checks = read(tree, s);
  tree.fail_on_problems();
  EXPECT_EQ(s.count, 8);
  EXPECT_EQ(s.files, std::vector<std::string>{"c"});
  EXPECT_EQ(s.inner.ratio, 0.2);
  EXPECT_TRUE(s.inner.fast);
  EXPECT_EQ(s.inner.limit, std::chrono::minutes(5));
  EXPECT_TRUE(checks.was_written("inner.limit"));
  EXPECT_FALSE(checks.was_written("color"));

  tree.add_text("inner: {ratio: 2}\n", "d.yaml");
  read(tree, s);
  try {
    tree.fail_on_problems();
    ADD_FAILURE() << "expected a problem";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "d.yaml:1:16: inner.ratio: expected a number in [0, 1), got '2'");
  }
}

TEST(Config, OverridesAreLiteralUnlessBracketed) {
  EXPECT_EQ(read_sample("", {"files=*.bin"}).files, std::vector<std::string>{"*.bin"});
  EXPECT_EQ(read_sample("", {"name=a: b # c"}).name, "a: b # c");
  EXPECT_EQ(read_sample("", {"name='q'"}).name, "q");
  EXPECT_EQ(read_sample("", {"files=[x, \"y z\"]"}).files, (std::vector<std::string>{"x", "y z"}));
  EXPECT_EQ(read_sample("", {"inner={ratio: 0.3, fast: true}"}).inner.ratio, 0.3);
  EXPECT_EQ(problems("", {"=3"}), "override '=3': expected section.key=value, such as train.steps=1000");
  EXPECT_EQ(problems("", {"inner..fast=true"}),
            "override 'inner..fast=true': expected section.key=value, such as train.steps=1000");
  EXPECT_EQ(problems("", {"files=[x"}), "override 'files=[x': not valid YAML: end of sequence flow not found");
  EXPECT_EQ(problems("", {"inner.fsat=true"}),
            "override 'inner.fsat=true': inner.fsat: unknown key; nearest is 'fast'");
}

TEST(Config, ChecksStandWhereTheKeyWasWritten) {
  const auto check = [](std::string_view text) {
    Tree tree;
    tree.add_text(text, "a.yaml");
    Sample s;
    Checks checks = read(tree, s);
    checks.require(s.count < s.sizes.size(), {"count", "sizes"}, "must be below the length of sizes ({})",
                   s.sizes.size());
    try {
      tree.fail_on_problems();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return ""s;
  };
  EXPECT_EQ(check("count: 4\n"), "a.yaml:1:8: count: must be below the length of sizes (2)");
  EXPECT_EQ(check("sizes: [1]\n"), "a.yaml:1:8: sizes: must be below the length of sizes (1)");
  EXPECT_EQ(check("name: x\n"), "count: must be below the length of sizes (2)");
  EXPECT_EQ(check("count: 1\n"), "");
  // Not on top of a problem of one of the keys, nor after a syntax error.
  EXPECT_EQ(check("sizes: [x]\n"), "a.yaml:1:9: sizes: expected an integer >= 0, got 'x'");
  EXPECT_EQ(check("name: [\n"), "a.yaml:2:1: not valid YAML: end of sequence flow not found");
}

TEST(Config, PrintsYamlThatReadsBackEqual) {
  EXPECT_EQ(to_yaml(Sample{}),
            "count: 3\nname: plain\ncolor: red\ntop: null\nfiles: []\nsizes: [1, 2]\nbetas: [0.9, 0.95]\ninner:\n  "
            "ratio: 0.5\n"
            "  fast: false\n  limit: 1m30s\nshape: round\nround:\n  radius: 1\n");
  Sample square;
  square.shape = Square{};
  EXPECT_EQ(to_yaml(square).find("square:"), std::string::npos);
  EXPECT_EQ(read_sample(to_yaml(square)), square);

  const Philox rng(11, RngPurpose::test);
  const std::vector<std::string> pieces{
      "a",    "9",  "\"", "'",    "\\", " ", ":", "#", "-", "*", "&", "!", "{",
      "]",    ",",  "~",  "null", "é",  "%", "@", "`", "|", ">", "?", "=", "\xF0\x9F\x98\x80",
      "true", "0x", "."};
  uint64_t draw = 0;
  for (int i = 0; i < 2000; ++i) {
    Sample s;
    s.count = 1 + static_cast<int64_t>(rng.below(draw++, 1000000));
    s.top = rng.below(draw++, 2) ? std::optional<int64_t>(rng.below(draw++, uint64_t{1} << 62)) : std::nullopt;
    const double scale = std::pow(10, -static_cast<double>(rng.below(draw++, 300)));
    s.inner.ratio = rng.uniform(draw++) * scale;
    s.inner.limit = std::chrono::seconds(rng.below(draw++, 300000000));
    for (auto* text : {&s.name, &s.files.emplace_back()}) {
      text->clear();
      for (uint64_t n = 1 + rng.below(draw++, 6); n > 0; --n) *text += pieces[rng.below(draw++, pieces.size())];
    }
    const std::string yaml = to_yaml(s);
    ASSERT_EQ(read_sample(yaml), s) << yaml;
    ASSERT_EQ(to_yaml(read_sample(yaml)), yaml);
  }
}

TEST(Config, HelpListsEveryKey) {
  const std::string help = help_table(catalogue(Sample{}));
  for (const auto part : {"count", "integer in [1, 1000000]", "red or dark_blue", "integer >= 0, or null", "how many",
                          "1m30s", "inner: the inside", "round: options of shape: round"}) {
    EXPECT_NE(help.find(part), std::string::npos) << part << "\n" << help;
  }
}

TEST(Config, UnreadableFilesAreUsageErrors) {
  Tree tree;
  tree.add_file("/nonexistent/x.yaml");
  try {
    tree.fail_on_problems();
    ADD_FAILURE() << "expected a problem";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::usage);
    EXPECT_NE(std::string(error.what()).find("/nonexistent/x.yaml"), std::string::npos);
  }
}

TEST(Config, SixteenLevelsAreAllowed) {
  const auto nested = [](size_t levels) {
    std::string text;
    for (size_t i = 0; i < levels; ++i) text.append(i, ' ').append("a:\n");
    return problems(text);
  };
  EXPECT_EQ(nested(16).substr(0, 26), "a.yaml:1:1: a: unknown key");
  EXPECT_EQ(nested(17),
            "a.yaml:1:1: a: unknown key; expected count, name, color, top, files, sizes, betas, inner, shape, round or "
            "square\na.yaml:17:17: nested deeper than 16 levels");
  std::string path = "a";
  for (int i = 0; i < 16; ++i) path += ".a";
  EXPECT_NE(problems("", {path + "=1"}).find("nested deeper than 16 levels"), std::string::npos);
}

TEST(Config, HostileInputIsBoundedInTimeAndMemory) {
  const auto repeat = [](std::string_view piece, size_t bytes) {
    std::string text;
    while (text.size() + piece.size() <= bytes) text += piece;
    return text;
  };
  const size_t mib = kMaxFileBytes;
  std::string keys, nested;
  for (int i = 0; keys.size() < mib - 20; ++i) keys.append("k").append(std::to_string(i)).append(": 1\n");
  for (int i = 0; i < 40; ++i) nested.append(i, ' ').append("a:\n");
  const std::vector<std::pair<std::string, std::string>> hostile{
      {repeat("[", mib), "more than 1000 open brackets"},
      {repeat("{a: ", mib), "nested deeper than 16 levels"},
      {repeat("[", 900), "a.yaml:1:9: nested deeper than 16 levels"},
      {repeat("- ", mib), "nested deeper than 16 levels"},
      {nested, "nested deeper than 16 levels"},
      {"files: [" + repeat(",", mib - 10), "more than 50000 values"},
      {"files: [" + repeat("1,", mib - 10) + "]", "more than 50000 values"},
      {keys, "more than 50000 values"},
      {repeat("k: 1\n", mib), "more problems"},
      {"x: " + repeat("a", mib - 10), "x: unknown key"},
      {"name: \"" + repeat("a", mib - 10), "not valid YAML"},
      {"count: " + repeat("9", mib - 10), "it does not fit 64 bits"},
      {"inner: {ratio: 0." + repeat("0", mib - 30) + "}", "read without a problem"},
      {repeat("a", mib - 10) + ": 1", "not valid YAML"},
      {repeat("&a ", mib), "not valid YAML"},
      {repeat("a", mib + 1), "larger than 1048576 bytes"}};
  for (const auto& [text, reason] : hostile) {
    const auto begin = std::chrono::steady_clock::now();
    const std::string got = problems(text);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    EXPECT_NE(got.find(reason), std::string::npos) << text.substr(0, 20) << ": " << got.substr(0, 300);
    EXPECT_LT(got.size(), 40000u) << text.substr(0, 20);
    EXPECT_LT(took.count(), 5.0) << text.substr(0, 20);  // 0.3 s where measured; the machine may be shared
  }
}

// Random edits of a good file: every outcome is a config or an Error(usage).
TEST(Config, MutatedFilesNeverCrash) {
  const std::string good = to_yaml(Sample{}) + "files: [a, 'b', \"c\"]\n";
  const Philox rng(5, RngPurpose::test);
  const std::string bytes = "[]{}:,&*!|>'\"#%@`~-?\n\t \\<.01aé\xFF\0"s;
  uint64_t draw = 0;
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = good;
    for (uint64_t n = 1 + rng.below(draw++, 4); n > 0; --n) {
      const size_t at = rng.below(draw++, text.size());
      const char byte = bytes[rng.below(draw++, bytes.size())];
      switch (rng.below(draw++, 3)) {
        case 0:
          text[at] = byte;
          break;
        case 1:
          text.insert(at, 1, byte);
          break;
        default:
          text.erase(at, 1 + rng.below(draw++, 5));
      }
    }
    try {
      read_sample(text);
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ExitCode::usage) << text;
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace t6::config
