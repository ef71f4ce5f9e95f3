/// The numbers on the pages of docs/learn. A box after <!-- numbers NAME --> has lines `label = number number …   remark`; each is
/// computed here, under the same name and label, and must agree to half a unit of its last digit. docs/learn/05_mixer.md's
/// derivation is held against the op.
#include <doctest/doctest.h>
#include <fmt/core.h>

#include <cmath>
#include <map>
#include <sstream>

#include "autograd/node.h"
#include "core/allocator.h"
#include "core/rng.h"
#include "datasets/loader.h"
#include "docs/examples/mixer_by_hand.h"
#include "nn/models/lra_classifier.h"
#include "nn/optim/schedule.h"
#include "ops/flare_mixer.h"
#include "ops/pointwise.h"
#include "ops/shaping.h"
#include "ops/softmax.h"
#include "tests/dataset_fixtures.h"
#include "tests/docs_fixtures.h"
#include "tools/train/evaluate.h"

namespace {

using by_hand::Matrix;
using Values = std::vector<double>;
using Box = std::map<std::string, Values>;

/// The numbers at the beginning of a text, and the digits behind the decimal point of each.
struct Printed {
  double value = 0, tolerance = 0;
};
std::vector<Printed> printed_numbers(const std::string& text) {
  std::vector<Printed> numbers;
  std::istringstream words(text);
  for (std::string w; words >> w;) {
    size_t used = 0;
    double value = 0;
    try {
      value = std::stod(w, &used);
    } catch (const std::exception&) { break; }
    if (used != w.size()) break;
    const size_t point = w.find('.');
    const double digits = point == std::string::npos ? 0 : static_cast<double>(w.size() - point - 1);
    numbers.push_back({value, 0.5 * std::pow(10, -digits) * (1 + 1e-9)});
    // A gap of several blanks ends the numbers: what follows is a remark, which may begin with a digit.
    if (words.peek() == ' ') {
      words.get();
      if (words.peek() == ' ') break;
    }
  }
  return numbers;
}
std::string line_error(const std::string& line, const Box& box) {
  const size_t equals = line.find(" = ") != std::string::npos ? line.find('=') : std::string::npos;
  if (equals == std::string::npos) return "has no ` = `";
  const auto computed = box.find(docs::trimmed(line.substr(0, equals)));
  if (computed == box.end()) return "has a label that the test does not compute";
  const std::vector<Printed> numbers = printed_numbers(line.substr(equals + 1));
  if (numbers.size() != computed->second.size())
    return cat("shows ", numbers.size(), " numbers where ", computed->second.size(), " are computed");
  for (size_t i = 0; i < numbers.size(); ++i)
    if (!(std::abs(numbers[i].value - computed->second[i]) <= numbers[i].tolerance))
      return cat("shows ", numbers[i].value, " where ", fmt::format("{:.12g}", computed->second[i]), " is computed");
  return "";
}

/// A weight matrix, or the like, as the op takes it: f64, a leaf.
Tensor leaf(const Matrix& m, const Shape& shape) {
  const Tensor x = Tensor::from<double>(m.values, shape);
  set_requires_grad(x);
  return x;
}
struct Mixed {
  Tensor y, dq, dk, dv;
};
Mixed by_the_op(const Matrix& q, const Matrix& k, const Matrix& v, double s, const Matrix& g) {
  const Tensor tq = leaf(q, {1, q.rows, q.cols}), tk = leaf(k, {1, k.rows, k.cols}), tv = leaf(v, {1, v.rows, v.cols});
  const Tensor y = flare_mixer(tq, tk, tv, {}, s);
  backward(y, Tensor::from<double>(g.values, y.shape()));
  return {y, grad(tq), grad(tk), grad(tv)};
}
void check_close(const Tensor& x, const Values& expected) {
  const Values values = x.to_vector();
  REQUIRE(values.size() == expected.size());
  for (size_t i = 0; i < values.size(); ++i) CHECK(values[i] == doctest::Approx(expected[i]).epsilon(1e-12));
}

struct Example {
  Matrix q{2, 1, {0, 1}}, k{2, 1, {std::log(3.0), 0}}, v{2, 1, {4, 8}};
};
Box mixer_box(const Values& g_values) {
  const Example e;
  const Matrix g{2, 1, g_values};
  const by_hand::Forward f = by_hand::forward(e.q, e.k, e.v, 1);
  const by_hand::Backward b = by_hand::backward(e.q, e.k, e.v, 1, f, g);
  const Mixed op = by_the_op(e.q, e.k, e.v, 1, g);  // what the page shows is what the op gives, not only what the page's code does
  check_close(op.y, f.y.values);
  const auto exp_of_all = [](Values values) {
    for (double& x : values) x = std::exp(x);
    return values;
  };
  const Matrix W = by_hand::matrix(2, 2, [&](int64_t m, int64_t n) { return b.dSd(n, m) + b.dSe(m, n); });
  return {{"expS", exp_of_all(f.S.values)},
          {"A", f.A.values},
          {"z", f.z.values},
          {"P", f.P.values},
          {"y", op.y.to_vector()},
          {"dz", b.dz.values},
          {"delta", b.delta.values},
          {"dSd", b.dSd.values},
          {"dv", op.dv.to_vector()},
          {"epsilon", b.epsilon.values},
          {"dSe", b.dSe.values},
          {"W", W.values},
          {"dk", op.dk.to_vector()},
          {"dq", op.dq.to_vector()}};
}
Box merge_box() {
  const Example e;
  const by_hand::Forward f = by_hand::forward(e.q, e.k, e.v, 1);
  Box box;
  for (int64_t chunk = 0; chunk < 2; ++chunk) {  // one token each; latent 2
    const double score = f.S(1, chunk);
    box["mu"].push_back(score);
    box["sigma"].push_back(std::exp(score - score));
    box["a"].push_back(std::exp(score - score) * e.v(chunk, 0));
  }
  const double top = std::max(box["mu"][0], box["mu"][1]);
  double sum = 0, total = 0;
  for (size_t c = 0; c < 2; ++c) {
    box["factor"].push_back(std::exp(box["mu"][c] - top));
    sum += box["factor"][c] * box["sigma"][c];
    total += box["factor"][c] * box["a"][c];
  }
  box["sum"] = {sum};
  box["z"] = {total / sum};
  box["lse"] = {top + std::log(sum)};
  CHECK(box["z"][0] == doctest::Approx(f.z(1, 0)).epsilon(1e-14));
  CHECK(box["lse"][0] == doctest::Approx(f.l(1, 0)).epsilon(1e-14));
  return box;
}

Box softmax_box(const Values& gy) {
  const Values x = {std::log(1.0), std::log(2.0), std::log(5.0)};
  const Tensor t = Tensor::from<double>(x, {1, 3});
  set_requires_grad(t);
  const Tensor y = softmax(t);
  backward(y, Tensor::from<double>(gy, {1, 3}));
  return {{"x", x}, {"y", y.to_vector()}, {"gy", gy}, {"gx", grad(t).to_vector()}};
}

Recipe recipe_of_quickstart() { return read_recipe(std::string(kSourceDir) + "/tools/configs/lra/listops-mini.json"); }
int64_t count_of(Module& module) { return module.parameter_count(); }
int64_t size_of_model(const ModelConfig& config) {
  LraClassifier model(config, 16, 40, 10, false, 0);
  return count_of(model);
}
Box parameter_box() {
  const ModelConfig config = recipe_of_quickstart().model;
  LraClassifier model(config, 16, 40, 10, false, 0);
  const auto count = [&](const std::string& prefix) {
    int64_t n = 0;
    for (const Parameter& p : model.parameters())
      if (p.name.starts_with(prefix)) n += p.value.numel();
    return static_cast<double>(n);
  };
  const double embeddings = count("token_emb.") + count("pos_emb.");
  return {{"linear", {count("blocks.0.att.out_proj.")}},
          {"mlp", {count("blocks.0.mlp.")}},
          {"mixer", {count("blocks.0.att.")}},
          {"block", {count("blocks.1.")}},
          {"embeddings", {embeddings}},
          {"head", {count("") - count("blocks.") - embeddings}},
          {"model", {static_cast<double>(model.parameter_count())}}};
}

Box schedule_box() {
  const Recipe r = recipe_of_quickstart();
  const SchedulePlan plan = make_schedule(r.optim.schedule, r.optim.lr, r.optim.beta1, r.train.steps);
  Box box;
  for (int64_t step : {0, 149, 299, 2999}) box[cat("lr(", step, ")")] = {schedule_at(plan, step).lr};
  return box;
}

/// A folder whose samples have these lengths, one token each kind.
PreparedFolder folder_of(const TemporaryFolder& tmp, const std::vector<int64_t>& lengths, int64_t max_length) {
  DatasetInfo info;
  info.name = "lengths";
  info.kind = "sequence_classification";
  info.vocabulary = 4;
  info.n_classes = 2;
  info.max_length = max_length;
  info.source = info.licence = info.citation = "made by a test";
  std::vector<int64_t> offsets = {0};
  for (int64_t n : lengths) offsets.push_back(offsets.back() + n);
  const auto count = static_cast<int64_t>(lengths.size());
  PreparedWriter writer(tmp / "lengths", info);
  writer.add_ragged("train", "tokens", Tensor::full({offsets.back()}, 1, DType::u8), Tensor::from(offsets, {count + 1}));
  writer.add("train", "labels", Tensor::zeros({count}, DType::i32));
  writer.commit();
  return PreparedFolder(tmp / "lengths");
}
Box length_box() {
  Recipe recipe;
  recipe.task.length_steps = 16;
  Box box;
  for (const int64_t longest : {523, 1990}) {
    const TemporaryFolder tmp;
    const PreparedFolder folder = folder_of(tmp, {3, longest}, 2000);
    LoaderOptions options;
    options.batch_size = 2;
    options.pad_step = pad_step(recipe, folder);
    options.pad_limit = longest_sample(recipe, folder);
    const auto n = static_cast<double>(Loader(folder, "train", options).next().tokens.size(1));
    box[longest == 523 ? "N" : "N(1990)"] = {n};
    box["pad step"] = {static_cast<double>(options.pad_step)};
  }
  return box;
}
Box epoch_box() {
  const TemporaryFolder tmp;
  LoaderOptions options;
  options.batch_size = static_cast<int64_t>(recipe_of_quickstart().train.batch_size);
  options.prefetch = false;
  Loader loader(folder_of(tmp, std::vector<int64_t>(20000, 1), 1), "train", options);
  const int64_t per_epoch = loader.batches_per_epoch();
  loader.seek(1000);
  const int64_t epoch = loader.next().epoch;
  loader.seek(3 * per_epoch - 1);
  CHECK(loader.next().epoch == 2);
  CHECK(loader.next().epoch == 3);
  return {{"batches per epoch", {static_cast<double>(per_epoch)}},
          {"epochs", {static_cast<double>(recipe_of_quickstart().train.steps) / static_cast<double>(per_epoch)}},
          {"epoch of batch", {static_cast<double>(epoch)}},
          {"place in it", {static_cast<double>(1000 - epoch * per_epoch)}},
          {"batch", {static_cast<double>(3 * per_epoch)}}};
}

Box view_box() {
  const Tensor x = Tensor::zeros({4, 6}, DType::f32), t = slice(transpose(x, 0, 1), 0, 1, 2);
  return {{"strides", {static_cast<double>(t.strides()[0]), static_cast<double>(t.strides()[1])}},
          {"offset", {static_cast<double>(static_cast<float*>(t.raw()) - static_cast<float*>(x.raw()))}}};
}
Box size_class_box(bool added) {
  Box box;
  for (const int64_t n : {1000, 1100, 2049, 4000, 5000})
    box[std::to_string(n)] = {static_cast<double>(size_class(n) - (added ? n : 0))};
  return box;
}
Box square_box() {
  const Tensor x = Tensor::from<double>({3}, {1});
  set_requires_grad(x);
  const Tensor y = mul(x, x);
  const Grads each = y.tape()->producer->vjp(Tensor::from<double>({1}, {1}), {});
  CHECK(each.size() == 2);
  CHECK(each[0].item() == each[1].item());
  backward(y);
  return {{"each", {each[0].item()}}, {"total", {grad(x).item()}}};
}
Box traffic_box() {
  const double elements = 64000.0 * 128, tensor = 4 * elements;
  return {{"elements", {elements}}, {"least", {2 * tensor}}, {"uncached", {4 * tensor}}, {"composition", {8 * tensor}}};
}
/// Sectors of 32 bytes that 32 lanes touch, each reading 4 bytes `apart` bytes after its neighbour.
double sectors(int64_t apart) {
  std::map<int64_t, int> touched;
  for (int64_t lane = 0; lane < 32; ++lane) ++touched[lane * apart / 32];
  return static_cast<double>(touched.size());
}

/// The box of this name, computed; nothing for an unknown name.
std::optional<Box> computed_box(const std::string& name) {
  if (name == "bf16") return Box{{"1.01", {static_cast<float>(bf16(1.01f))}}};
  if (name == "size_class") return size_class_box(false);
  if (name == "softmax") return softmax_box({1, 0, 0});
  if (name == "sectors")
    return Box{{"neighbours", {sectors(4)}}, {"apart", {sectors(512)}}, {"share", {32 * 4 / (32 * sectors(512))}}};
  if (name == "traffic") return traffic_box();
  if (name == "mixer") return mixer_box({4, 2});
  if (name == "merge") return merge_box();
  if (name == "parameters") return parameter_box();
  if (name == "schedule") return schedule_box();
  if (name == "epochs" || name == "answer 8.3") return epoch_box();
  if (name == "lengths") return length_box();
  if (name == "answer 1.1") return view_box();
  if (name == "answer 1.2") return size_class_box(true);
  if (name == "answer 2.1") return square_box();
  if (name == "answer 3.2") return softmax_box({0, 0, 8});
  if (name == "answer 4.3") return Box{{"bytes", {3 * 4 * 64000.0 * 128}}};
  if (name == "answer 5.2") return mixer_box({0, 2});
  if (name == "answer 6.1") {
    Rng rng(0);
    ResidualMlpOptions o;
    o.in = o.hidden = o.out = 64, o.layers = -1;
    ResidualMlp mlp(o, rng);
    return Box{{"parameters", {static_cast<double>(count_of(mlp))}}};
  }
  if (name == "answer 6.2") {
    ModelConfig config = recipe_of_quickstart().model;
    const int64_t before = size_of_model(config);
    config.latents = 128;
    return Box{{"more", {static_cast<double>(size_of_model(config) - before)}}};
  }
  if (name == "answer 7.2") return schedule_box();
  return std::nullopt;
}

}  // namespace

TEST_CASE("docs: wrong numbers are found") {
  const Box box = {{"a b", {1.25, -3}}};
  CHECK(line_error("a b = 1.25 -3   2 remarks", box).empty());
  CHECK(line_error("a b = 1.3 -3", box).empty());  // 1.25 rounded
  CHECK_FALSE(line_error("a b = 1.24 -3", box).empty());
  CHECK_FALSE(line_error("a b = 1.25", box).empty());
  CHECK_FALSE(line_error("a b = 1.25 -3 4", box).empty());
  CHECK_FALSE(line_error("b = 1.25 -3", box).empty());
  CHECK_FALSE(line_error("no number", box).empty());
}

TEST_CASE("docs: the numbers on the pages are those that are computed") {
  int boxes = 0, lines = 0;
  for (const docs::Page& page : docs::pages()) {
    for (const docs::Block& block : page.blocks) {
      const std::optional<std::string> name = block.note_after("numbers");
      if (!name) continue;
      const std::optional<Box> box = computed_box(*name);
      CHECK_MESSAGE(box.has_value(), block.where(), ": this test computes no numbers named \"", *name, "\"");
      if (!box) continue;
      ++boxes;
      for (size_t i = 0; i < block.lines.size(); ++i) {
        const std::string error = line_error(block.lines[i], *box);
        CHECK_MESSAGE(error.empty(), page.name, ":", block.line + 1 + static_cast<int>(i), ": `", block.lines[i], "` ", error);
        ++lines;
      }
    }
  }
  fmt::print("docs: {} numbered lines in {} boxes\n", lines, boxes);
  CHECK(boxes >= 15);
}

TEST_CASE("docs: the mixer's derivation gives the op's gradients") {
  for (const auto& [M, N, D] : {std::tuple<int64_t, int64_t, int64_t>{2, 2, 1}, {3, 7, 4}, {5, 2, 3}, {1, 4, 2}, {6, 40, 8}}) {
    Rng rng(static_cast<uint64_t>(M * 100 + N));
    const auto random = [&](int64_t rows, int64_t cols) {
      return by_hand::matrix(rows, cols, [&](int64_t, int64_t) { return rng.normal(); });
    };
    const Matrix q = random(M, D), k = random(N, D), v = random(N, D), g = random(N, D);
    const by_hand::Forward f = by_hand::forward(q, k, v, 0.7);
    const by_hand::Backward b = by_hand::backward(q, k, v, 0.7, f, g);
    const Mixed op = by_the_op(q, k, v, 0.7, g);
    const auto agree = [](const Tensor& x, const Matrix& expected) {
      const Values values = x.to_vector();
      REQUIRE(values.size() == expected.values.size());
      double worst = 0, size = 0;
      for (size_t i = 0; i < values.size(); ++i) {
        worst = std::max(worst, std::abs(values[i] - expected.values[i]));
        size = std::max(size, std::abs(expected.values[i]));
      }
      CHECK(worst <= 1e-12 * std::max(size, 1.0));
    };
    agree(op.y, f.y);
    agree(op.dq, b.dq);
    agree(op.dk, b.dk);
    agree(op.dv, b.dv);
    // P = A·exp(ℓ − λ), the relation of rank one.
    for (int64_t m = 0; m < M; ++m)
      for (int64_t n = 0; n < N; ++n)
        CHECK(f.P(n, m) == doctest::Approx(f.A(m, n) * std::exp(f.l(m, 0) - f.lambda(n, 0))).epsilon(1e-12));
  }
}
