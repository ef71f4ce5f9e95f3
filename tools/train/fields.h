#pragma once
#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "core/check.h"

namespace flare {

using Json = nlohmann::ordered_json;

/// Limits a describe() may state beside a field: f("steps", steps, "...", Between{1}), f("precision", p, "...", OneOf{{"fp32",
/// "bf16"}}).
struct Between {
  double lo = -std::numeric_limits<double>::infinity(), hi = std::numeric_limits<double>::infinity();
};
struct OneOf {
  std::vector<std::string> words;
};

/// One configuration value behind its dotted key: how to read it and how to replace it. `set` throws ConfigError naming the
/// key, what it expects and what it got.
struct Field {
  std::string key, type, help;
  bool is_text = false;  // a string: --set takes the text as it is
  std::function<Json()> get;
  std::function<void(const Json&)> set;
};

/// The visitor that a struct's `template <class F> void describe(F& f)` fills: one flat list of dotted keys, bound to the struct it
/// came from (which must outlive it). Parsing, --set, --help-config, the run header and config.json are all loops over it.
class FieldList {
 public:
  template <class T, class... Limits> void operator()(const char* name, T& value, const char* help, const Limits&... limits) {
    const std::string key = prefix_ + name;
    if constexpr (requires(FieldList & f) { value.describe(f); }) {
      const std::string before = prefix_;
      prefix_ = key + ".";
      value.describe(*this);
      prefix_ = before;
    } else {
      static_assert(std::same_as<T, bool> || std::integral<T> || std::floating_point<T> || std::same_as<T, std::string>,
                    "a configuration field is a bool, a number, a string or a struct with describe()");
      Field field{key, type_name<T>(), help, std::same_as<T, std::string>, [&value] { return Json(value); }, {}};
      (add_limit(field, limits), ...);
      field.set = [&value, key, limits...](const Json& json) {
        T next{};
        convert(key, json, next);
        (check_limit(key, next, limits), ...);
        value = next;
      };
      fields_.push_back(std::move(field));
    }
  }
  const std::vector<Field>& fields() const { return fields_; }
  const Field* find(const std::string& key) const;
  /// Whether some field's key begins with `key` and a dot.
  bool is_section(const std::string& key) const;
  /// The known key or section closest to `key` by edit distance.
  std::string nearest(const std::string& key) const;

  /// Sets every value of a JSON tree. ConfigError names the full dotted key: unknown (and the nearest), of a wrong type, out of
  /// range. `where` (a file name) begins the message.
  void read(const Json& tree, const std::string& where);
  /// Sets one value from "key=text", the text parsed by the field's type.
  void set_from_text(const std::string& assignment);
  /// The tree of all values, in the order of description.
  Json write() const;

 private:
  template <class T> static constexpr const char* type_name() {
    if constexpr (std::same_as<T, bool>)
      return "bool";
    else if constexpr (std::integral<T>)
      return "integer";
    else if constexpr (std::floating_point<T>)
      return "number";
    else
      return "string";
  }
  static void convert(const std::string& key, const Json& json, bool& out);
  static void convert(const std::string& key, const Json& json, double& out);
  static void convert(const std::string& key, const Json& json, std::string& out);
  static void convert(const std::string& key, const Json& json, int64_t& out);
  static void convert(const std::string& key, const Json& json, uint64_t& out);
  static void convert(const std::string& key, const Json& json, float& out) {
    double wide = 0;
    convert(key, json, wide);
    out = static_cast<float>(wide);
  }
  static void convert(const std::string& key, const Json& json, int& out) {
    int64_t wide = 0;
    convert(key, json, wide);
    check<ConfigError>(wide >= std::numeric_limits<int>::min() && wide <= std::numeric_limits<int>::max(), key, ": ", wide,
                       " is out of range");
    out = static_cast<int>(wide);
  }
  static void add_limit(Field& field, const Between& range);
  static void add_limit(Field& field, const OneOf& choice);
  template <class T> static void check_limit(const std::string& key, const T& value, const Between& range) {
    check<ConfigError>(static_cast<double>(value) >= range.lo && static_cast<double>(value) <= range.hi, key,
                       ": expected a value in ", describe_range(range), ", got ", value);
  }
  static void check_limit(const std::string& key, const std::string& value, const OneOf& choice);
  static std::string describe_range(const Between& range);
  void read_into(const Json& tree, const std::string& prefix);

  std::vector<Field> fields_;
  std::string prefix_;
};

/// Levenshtein distance.
int edit_distance(const std::string& a, const std::string& b);

/// Parses a JSON text with // comments allowed and duplicate keys refused. ConfigError says where, naming `where`.
Json parse_json_text(const std::string& text, const std::string& where);

}  // namespace flare
