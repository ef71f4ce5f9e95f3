#pragma once
/// What the tests of models share: golden files, and a configuration read from their metadata.
#include <cmath>
#include <concepts>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "core/safetensors.h"
#include "nn/config.h"
#include "tests/paths.h"

namespace flare {

/// Fills the fields that a JSON object has; the rest keep their defaults.
struct JsonVisitor {
  const nlohmann::json& tree;
  template <class T> void operator()(const char* name, T& value, const char*) {
    if (!tree.contains(name)) return;
    if constexpr (requires(JsonVisitor & f) { value.describe(f); }) {
      JsonVisitor inner{tree.at(name)};
      value.describe(inner);
    } else {
      value = tree.at(name).get<T>();
    }
  }
};

/// The model of a golden file; `compat` lies beside its other keys.
inline ModelConfig model_config(const nlohmann::json& tree) {
  ModelConfig config;
  JsonVisitor visit{tree};
  config.describe(visit);
  visit("compat", config.compat, "");
  return config;
}

struct Golden {
  explicit Golden(const std::string& name)
      : file(read_safetensors(std::string(kSourceDir) + "/tests/golden/" + name + ".safetensors")) {}
  bool has(const std::string& name) const { return file.find(name) != nullptr; }
  const Tensor& at(const std::string& name) const {
    const Tensor* found = file.find(name);
    check<DataError>(found != nullptr, "golden file: no tensor ", name);
    return *found;
  }
  nlohmann::json metadata(const std::string& key) const { return nlohmann::json::parse(file.metadata.at(key)); }
  SafeTensors file;
};

/// max |a-b| over max(max |b|, floor).
inline double relative_error(const Tensor& a, const Tensor& b, double floor = 0) {
  REQUIRE(a.shape() == b.shape());
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  double difference = 0, size = floor;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(x[i])) return INFINITY;
    difference = std::max(difference, std::abs(x[i] - y[i]));
    size = std::max(size, std::abs(y[i]));
  }
  return size > 0 ? difference / size : difference;
}

}  // namespace flare
