/// The loader: order, masks, padding, going on at a position, files that change meanwhile.
#include <chrono>

#include "datasets/loader.h"
#include "tests/dataset_fixtures.h"

namespace {

bool equal(const Tensor& a, const Tensor& b) {
  if (a.defined() != b.defined()) return false;
  return !a ||
         (a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
}
bool equal(const Batch& a, const Batch& b) {
  return equal(a.tokens, b.tokens) && equal(a.mask, b.mask) && equal(a.labels, b.labels) && equal(a.x, b.x) && equal(a.y, b.y) &&
         a.n_samples == b.n_samples && a.n_tokens == b.n_tokens && a.epoch == b.epoch;
}

/// Which sample a row of a batch is: lengths and first tokens together tell them apart.
int64_t sample_of(const Batch& batch, int64_t row) {
  const int64_t n = batch.tokens.size(1);
  int64_t length = 0;
  while (length < n && batch.mask.data<uint8_t>()[row * n + length]) ++length;
  for (int64_t i = 0; i < kSamples; ++i)
    if (length_of(i) == length && token_of(i, 0) == batch.tokens.data<int64_t>()[row * n]) return i;
  return -1;
}

}  // namespace

TEST_CASE("loader: every sample once an epoch, in an order of the epoch's own") {
  const TemporaryFolder tmp;
  write_small(tmp / "small");
  Loader loader(PreparedFolder(tmp / "small"), "train", {.batch_size = 4, .seed = 7, .drop_last = false});
  REQUIRE(loader.batches_per_epoch() == 6);
  std::vector<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t> order;
    for (int64_t b = 0; b < 6; ++b) {
      CHECK(loader.position() == epoch * 6 + b);
      const Batch batch = loader.next();
      CHECK(batch.epoch == epoch);
      CHECK(batch.n_samples == (b == 5 ? 3 : 4));
      REQUIRE(batch.tokens.shape() == batch.mask.shape());
      for (int64_t row = 0; row < batch.n_samples; ++row) {
        order.push_back(sample_of(batch, row));
        CHECK(batch.labels.data<int64_t>()[row] == order.back() % 4);
      }
    }
    std::vector<int64_t> sorted = order;
    std::sort(sorted.begin(), sorted.end());
    for (int64_t i = 0; i < kSamples; ++i) CHECK(sorted[static_cast<size_t>(i)] == i);
    CHECK(sorted != order);
    orders.push_back(order);
  }
  CHECK(orders[0] != orders[1]);
  CHECK(orders[1] != orders[2]);
  Loader other(PreparedFolder(tmp / "small"), "train", {.batch_size = 4, .seed = 8, .drop_last = false});
  loader.seek(0);
  CHECK_FALSE(equal(loader.next(), other.next()));
}

TEST_CASE("loader: evaluation keeps the order and the last batch; training drops it") {
  const TemporaryFolder tmp;
  write_small(tmp / "small");
  const PreparedFolder folder(tmp / "small");
  Loader eval(folder, "train", {.batch_size = 5, .shuffle = false, .drop_last = false});
  REQUIRE(eval.batches_per_epoch() == 5);
  int64_t i = 0;
  for (int64_t b = 0; b < 5; ++b) {
    const Batch batch = eval.next();
    for (int64_t row = 0; row < batch.n_samples; ++row) CHECK(sample_of(batch, row) == i++);
  }
  CHECK(i == kSamples);
  Loader train(folder, "train", {.batch_size = 5});
  CHECK(train.batches_per_epoch() == 4);
  for (int64_t b = 0; b < 8; ++b) CHECK(train.next().n_samples == 5);
  CHECK_SAYS(3, "split train has 23 samples, too few for one batch of 24", Loader(folder, "train", {.batch_size = 24}));
  CHECK_SAYS(2, "batch size 0 is below 1", Loader(folder, "train", {.batch_size = 0}));
}

TEST_CASE("loader: masks, padding and truncation") {
  const TemporaryFolder tmp;
  write_small(tmp / "small");
  const PreparedFolder folder(tmp / "small");
  for (const int64_t pad_to : {int64_t{0}, int64_t{16}, int64_t{6}}) {
    Loader loader(folder, "train", {.batch_size = 4, .shuffle = false, .drop_last = false, .pad_to = pad_to});
    for (int64_t b = 0; b < loader.batches_per_epoch(); ++b) {
      const Batch batch = loader.next();
      int64_t longest = 0, n_tokens = 0;
      for (int64_t row = 0; row < batch.n_samples; ++row) longest = std::max(longest, length_of(4 * b + row));
      const int64_t n = pad_to ? pad_to : longest;
      REQUIRE(batch.tokens.shape() == Shape{batch.n_samples, n});
      CHECK(batch.mask.dtype() == DType::u8);
      CHECK(batch.tokens.dtype() == DType::i64);
      for (int64_t row = 0; row < batch.n_samples; ++row)
        for (int64_t k = 0; k < n; ++k) {
          const bool is_real = k < length_of(4 * b + row);
          n_tokens += is_real;
          CHECK(batch.mask.data<uint8_t>()[row * n + k] == (is_real ? 1 : 0));
          CHECK(batch.tokens.data<int64_t>()[row * n + k] == (is_real ? token_of(4 * b + row, k) : 0));
        }
      CHECK(batch.n_tokens == n_tokens);
    }
  }
}

TEST_CASE("loader: lengths rounded up to steps, within a limit that no sample is cut to") {
  const TemporaryFolder tmp;
  write_small(tmp / "small");
  const PreparedFolder folder(tmp / "small");
  for (const int64_t limit : {int64_t{0}, int64_t{7}}) {
    Loader plain(folder, "train", {.batch_size = 4, .shuffle = false});
    Loader loader(folder, "train", {.batch_size = 4, .shuffle = false, .pad_step = 4, .pad_limit = limit});
    for (int64_t b = 0; b < loader.batches_per_epoch(); ++b) {
      const Batch expected = plain.next(), batch = loader.next();
      const int64_t longest = expected.tokens.size(1), n = batch.tokens.size(1), rounded = (longest + 3) / 4 * 4;
      CHECK(n == (limit ? std::max(longest, std::min(rounded, limit)) : rounded));
      CHECK(batch.n_tokens == expected.n_tokens);
      for (int64_t row = 0; row < 4; ++row)
        for (int64_t k = 0; k < n; ++k) {
          const bool is_inside = k < longest;
          CHECK(batch.tokens.data<int64_t>()[row * n + k] == (is_inside ? expected.tokens.data<int64_t>()[row * longest + k] : 0));
          CHECK(batch.mask.data<uint8_t>()[row * n + k] == (is_inside ? expected.mask.data<uint8_t>()[row * longest + k] : 0));
        }
    }
  }
  CHECK_SAYS(2, "pad_step -1", Loader(folder, "train", {.batch_size = 4, .pad_step = -1}));
}

TEST_CASE("loader: going on at a position equals never having stopped") {
  const TemporaryFolder tmp;
  write_small(tmp / "small");
  const PreparedFolder folder(tmp / "small");
  const LoaderOptions options{.batch_size = 4, .seed = 3};
  std::vector<Batch> all;
  Loader whole(folder, "train", options);
  for (int i = 0; i < 20; ++i) all.push_back(whole.next());
  for (const int64_t start : {int64_t{0}, int64_t{1}, int64_t{4}, int64_t{5}, int64_t{13}}) {
    LoaderOptions resumed = options;
    for (const bool prefetch : {true, false}) {
      resumed.prefetch = prefetch;
      Loader loader(PreparedFolder(tmp / "small"), "train", resumed);
      loader.next();
      loader.seek(start);
      for (int64_t i = start; i < 20; ++i) {
        CHECK(loader.position() == i);
        CHECK(equal(loader.next(), all[static_cast<size_t>(i)]));
      }
    }
  }
  int64_t n_wrong = 0;
  for (int i = 0; i < 2000; ++i) {  // the second seek comes while the background thread builds for the first, at changing moments
    whole.seek(i % 7);
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(i % 100);
    while (std::chrono::steady_clock::now() < until) {}
    whole.seek(i % 19);
    n_wrong += !equal(whole.next(), all[static_cast<size_t>(i % 19)]) || !equal(whole.next(), all[static_cast<size_t>(i % 19 + 1)]);
  }
  CHECK(n_wrong == 0);
}

TEST_CASE("loader: a file that changes under the mapping fails in next(), not in a kernel") {
  const TemporaryFolder tmp;
  write_small(tmp / "small");
  for (const bool prefetch : {true, false}) {
    const PreparedFolder folder(tmp / "small");
    folder.validate("train");
    const uint8_t bad = 255, good = token_of(kSamples - 1, 0);
    poke(tmp / "small/train.tokens.npy", 1, &bad, 1);
    Loader loader(folder, "train", {.batch_size = kSamples, .prefetch = prefetch});
    CHECK_SAYS(3, "sample 22: token 255", loader.next());
    CHECK_SAYS(3, "sample 22: token 255", loader.next());
    CHECK(loader.position() == 0);
    poke(tmp / "small/train.tokens.npy", 1, &good, 1);
    loader.seek(1);
    CHECK(loader.next().epoch == 1);
  }
}

TEST_CASE("loader: fields, fixed and of variable length, and pairs") {
  const TemporaryFolder tmp;
  DatasetInfo info;
  info.name = "fields";
  info.kind = "field_regression";
  std::vector<double> x, y;
  for (int i = 0; i < 24; ++i) {
    x.push_back(i * 0.5);
    y.push_back(-i);
  }
  {
    PreparedWriter writer(tmp / "fixed", info);
    writer.add("train", "x", cast_to(Tensor::from(x, {4, 3, 2}), DType::f32));
    writer.add("train", "y", Tensor::from(std::vector<double>(y.begin(), y.begin() + 12), {4, 3, 1}));  // f64 on disk
    writer.commit();
  }
  Loader fixed(PreparedFolder(tmp / "fixed"), "train", {.batch_size = 2, .shuffle = false});
  Batch batch = fixed.next();
  CHECK(batch.x.shape() == Shape{2, 3, 2});
  CHECK(batch.y.shape() == Shape{2, 3, 1});
  CHECK(batch.y.dtype() == DType::f32);
  CHECK_FALSE(batch.mask.defined());
  CHECK(batch.n_tokens == 6);
  batch = fixed.next();
  CHECK(batch.x.item(0) == 6.0);
  CHECK(batch.y.item(5) == -11.0);

  const auto write_ragged = [&](const std::string& dir, const std::vector<int64_t>& y_offsets, double value) {
    PreparedWriter writer(dir, info);
    const Tensor values = Tensor::from(x, {12, 2});
    values.data<double>()[7] = value;
    writer.add_ragged("train", "x", values, Tensor::from(std::vector<int64_t>{0, 5, 12}, {3}));
    writer.add_ragged("train", "y", Tensor::from(std::vector<double>(y.begin(), y.begin() + 12), {12}),
                      Tensor::from(y_offsets, {3}));
    writer.commit();
  };
  write_ragged(tmp / "ragged", {0, 5, 12}, 3.5);
  batch = Loader(PreparedFolder(tmp / "ragged"), "train", {.batch_size = 2, .shuffle = false}).next();
  CHECK(batch.x.shape() == Shape{2, 7, 2});
  CHECK(batch.y.shape() == Shape{2, 7});
  CHECK(batch.mask.to_vector() == std::vector<double>{1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1});
  CHECK(batch.x.item(2 * 5) == 0.0);
  CHECK(batch.x.item(2 * 7) == 5.0);
  CHECK(batch.n_tokens == 12);
  write_ragged(tmp / "uneven", {0, 4, 12}, 3.5);
  CHECK_SAYS(3, "sample 0: y has 4 points and x has 5", PreparedFolder(tmp / "uneven").validate("train"));
  write_ragged(tmp / "nan", {0, 5, 12}, std::numeric_limits<double>::quiet_NaN());
  CHECK_SAYS(3, "nan/train.x.npy: split train, sample 0: value at element 7 is not finite",
             PreparedFolder(tmp / "nan").validate("train"));

  DatasetInfo pairs = small_info();
  {
    PreparedWriter writer(tmp / "pairs", pairs);
    writer.add("train", "tokens", Tensor::from(std::vector<uint8_t>{1, 2, 3, 4}, {2, 2}));
    writer.add_ragged("train", "tokens_b", Tensor::from(std::vector<int32_t>{5, 6, 7, 8, 9}, {5}),
                      Tensor::from(std::vector<int64_t>{0, 1, 5}, {3}));
    writer.add("train", "labels", Tensor::from(std::vector<uint8_t>{0, 3}, {2}));
    writer.commit();
  }
  batch = Loader(PreparedFolder(tmp / "pairs"), "train", {.batch_size = 2, .shuffle = false}).next();
  CHECK_FALSE(batch.mask.defined());
  CHECK(batch.tokens.to_vector() == std::vector<double>{1, 2, 3, 4});
  CHECK(batch.tokens_b.to_vector() == std::vector<double>{5, 0, 0, 0, 6, 7, 8, 9});
  CHECK(batch.mask_b.to_vector() == std::vector<double>{1, 0, 0, 0, 1, 1, 1, 1});
  CHECK(batch.labels.to_vector() == std::vector<double>{0, 3});
  CHECK(batch.n_tokens == 9);
  {
    PreparedWriter writer(tmp / "uneven pairs", pairs);
    const auto ragged = [&](const char* field, const std::vector<int64_t>& offsets) {
      writer.add_ragged("train", field, Tensor::full({offsets.back()}, 2, DType::u8), Tensor::from(offsets, {3}));
    };
    ragged("tokens", {0, 1, 6});
    ragged("tokens_b", {0, 2, 4});
    writer.add("train", "labels", Tensor::from(std::vector<uint8_t>{0, 3}, {2}));
    writer.commit();
  }
  batch = Loader(PreparedFolder(tmp / "uneven pairs"), "train", {.batch_size = 2, .shuffle = false, .pad_step = 4}).next();
  CHECK(batch.tokens.shape() == Shape{2, 8});
  CHECK(batch.tokens_b.shape() == Shape{2, 8});
  CHECK(batch.mask_b.to_vector() == std::vector<double>{1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0});
  batch = Loader(PreparedFolder(tmp / "uneven pairs"), "train", {.batch_size = 2, .shuffle = false}).next();
  CHECK((batch.tokens.size(1) == 5 && batch.tokens_b.size(1) == 2));
}
