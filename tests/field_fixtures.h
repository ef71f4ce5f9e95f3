#pragma once
/// Samples of fields, and a small trained run on fields, for the tests of pictures and files made from them.
#include <functional>
#include <string>
#include <vector>

#include "datasets/pde/darcy.h"
#include "tests/cli_fixtures.h"
#include "tools/fields/field_sample.h"

/// One sample from x [N][in] and values [N][out].
inline FieldSample sample_of(const std::vector<std::vector<float>>& x, const std::vector<std::vector<float>>& prediction,
                             const std::vector<std::vector<float>>& truth, const std::vector<int64_t>& grid = {},
                             int64_t coordinates = 0) {
  const auto tensor = [](const std::vector<std::vector<float>>& rows) {
    std::vector<float> flat;
    for (const std::vector<float>& row : rows) flat.insert(flat.end(), row.begin(), row.end());
    return Tensor::from(flat, {1, static_cast<int64_t>(rows.size()), static_cast<int64_t>(rows[0].size())});
  };
  DatasetInfo info;
  info.name = "made";
  info.grid = grid;
  info.coordinates = coordinates;
  return field_sample(info, tensor(x), tensor(prediction), truth.empty() ? Tensor() : tensor(truth), 0,
                      static_cast<int64_t>(x.size()));
}

/// h x w nodes, point i·w + j, at the positions and with the values given by functions of (i, j).
struct GridPoints {
  std::vector<std::vector<float>> x, values;
};
inline GridPoints grid_of(int64_t h, int64_t w, const std::function<std::vector<float>(double, double)>& position,
                          const std::function<double(double, double)>& value) {
  GridPoints g;
  for (int64_t i = 0; i < h; ++i)
    for (int64_t j = 0; j < w; ++j) {
      g.x.push_back(position(static_cast<double>(i), static_cast<double>(j)));
      g.values.push_back({static_cast<float>(value(static_cast<double>(i), static_cast<double>(j)))});
    }
  return g;
}

constexpr const char* kTinyFields = R"({"task": {"name": "darcy-gen", "data": "data"},
  "model": {"blocks": 2, "channels": 16, "heads": 2, "latents": 8, "kv_layers": 0, "ffn_layers": 0},
  "train": {"steps": 4, "batch_size": 4, "log_every": 4, "eval_every": 4, "checkpoint_every": 4}})";

/// data/ (Darcy flow on 8 x 8 points: 8 train, 2 val, 5 test) and tiny.json in a scratch folder, and a run of them.
inline void make_field_run(const Scratch& scratch, const std::string& run = "run", const std::vector<std::string>& more = {}) {
  if (!fs::exists(scratch.file("data"))) {
    DarcyOptions o;
    o.train = 8;
    o.val = 2;
    o.test = 5;
    o.resolution = 15;
    o.stride = 2;
    generate_darcy(o, scratch.file("data"));
    scratch.write("tiny.json", kTinyFields);
  }
  std::vector<std::string> args = {"train", "tiny.json", "--run", run, "--device", "cpu", "--quiet"};
  args.insert(args.end(), more.begin(), more.end());
  const Outcome trained = scratch.run(args);
  INFO(trained.err);
  REQUIRE(trained.code == 0);
}
