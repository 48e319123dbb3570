// The keys of a JSON object, listed once and either written or read.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace t6::checkpoint {

// What a list of keys is handed to. A reader keeps the value that the caller set where a kDefault key is missing or
// null.
class JsonFields {
 public:
  enum Presence { kRequired, kDefault };

  virtual ~JsonFields() = default;
  virtual bool reads() const = 0;
  virtual void integer(const char* key, int64_t& value, int64_t least, int64_t most, Presence presence = kRequired) = 0;
  // Above least, at most `most`.
  virtual void number(const char* key, double& value, double least, double most, Presence presence = kRequired) = 0;
  virtual void word(const char* key, std::string& value, std::initializer_list<const char*> words,
                    Presence presence = kRequired) = 0;
  // A key with one possible value, and why.
  virtual void is(const char* key, const nlohmann::json& value, const char* why, Presence presence = kRequired) = 0;
  // RoPE's base: "rope_theta" as transformers 4 has it, "rope_parameters" as 5 does; of no other type than the default.
  virtual void rope(double& theta, double least, double most) = 0;
  // Written; whatever is read does not change the model.
  virtual void note(const char* key, const nlohmann::json& value) = 0;
  // Not written; known not to change the model.
  virtual void harmless(const char* key) = 0;
  virtual void problem_unless(bool holds, const char* key, const std::string& reason) = 0;
};

class JsonWriter final : public JsonFields {
 public:
  nlohmann::json root = nlohmann::json::object();

  bool reads() const override { return false; }
  void integer(const char* key, int64_t& value, int64_t, int64_t, Presence) override { root[key] = value; }
  void number(const char* key, double& value, double, double, Presence) override { root[key] = value; }
  void word(const char* key, std::string& value, std::initializer_list<const char*>, Presence) override {
    root[key] = value;
  }
  void is(const char* key, const nlohmann::json& value, const char*, Presence) override { root[key] = value; }
  void rope(double& theta, double, double) override {
    root["rope_theta"] = theta;
    root["rope_parameters"] = {{"rope_theta", theta}, {"rope_type", "default"}};
  }
  void note(const char* key, const nlohmann::json& value) override { root[key] = value; }
  void harmless(const char*) override {}
  void problem_unless(bool, const char*, const std::string&) override {}
};

// Collects what is wrong; finish() says all of it, unknown keys too.
class JsonReader final : public JsonFields {
 public:
  explicit JsonReader(const nlohmann::json& root) : root_(root) {}

  bool reads() const override { return true; }
  void integer(const char* key, int64_t& value, int64_t least, int64_t most, Presence presence) override;
  void number(const char* key, double& value, double least, double most, Presence presence) override;
  void word(const char* key, std::string& value, std::initializer_list<const char*> words, Presence presence) override;
  void is(const char* key, const nlohmann::json& value, const char* why, Presence presence) override;
  void rope(double& theta, double least, double most) override;
  void note(const char* key, const nlohmann::json&) override { known_.insert(key); }
  void harmless(const char* key) override { known_.insert(key); }
  void problem_unless(bool holds, const char* key, const std::string& reason) override;

  // Error(checkpoint) "<where>: " and every problem, when there is one.
  void finish(const std::string& where);

 private:
  // Null when there is nothing to read; said when it had to be there.
  const nlohmann::json* find(const char* key, Presence presence);
  bool read_theta(const std::string& key, const nlohmann::json& value, double least, double most, double& theta);

  const nlohmann::json& root_;
  std::set<std::string> known_;
  std::set<std::string> bad_;
  std::vector<std::string> problems_;
};

}  // namespace t6::checkpoint
