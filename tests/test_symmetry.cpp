/// Turning square pictures while training: the eight symmetries, and what the loader makes of them.
#include <algorithm>
#include <set>

#include "datasets/loader.h"
#include "datasets/symmetry.h"
#include "tests/dataset_fixtures.h"

namespace {

constexpr int64_t kSide = 3;

std::vector<int64_t> picture(int64_t first) {
  std::vector<int64_t> p(kSide * kSide);
  for (size_t i = 0; i < p.size(); ++i) p[i] = first + static_cast<int64_t>(i);
  return p;
}

/// Ten pictures of 3 x 3 tokens, all different; as numbers with two channels where `as_numbers`.
void write_pictures(const std::string& dir, bool as_numbers = false, int64_t n_tokens = kSide * kSide) {
  DatasetInfo info = small_info();
  info.vocabulary = as_numbers ? 0 : 100;
  info.max_length = n_tokens;
  info.tokens.clear();
  info.normalisation.clear();
  PreparedWriter writer(dir, info);
  const Tensor labels = Tensor::empty({10}, DType::u8), tokens = Tensor::empty({10, n_tokens}, DType::u8),
               x = Tensor::empty({10, n_tokens, 2}, DType::f32);
  for (int64_t i = 0; i < 10; ++i) {
    labels.data<uint8_t>()[i] = static_cast<uint8_t>(i % 4);
    for (int64_t n = 0; n < n_tokens; ++n) {
      tokens.data<uint8_t>()[i * n_tokens + n] = static_cast<uint8_t>(9 * i + n % 9);
      for (int64_t c = 0; c < 2; ++c) x.data<float>()[(i * n_tokens + n) * 2 + c] = static_cast<float>(100 * i + 10 * n + c);
    }
  }
  if (as_numbers)
    writer.add("train", "x", x);
  else
    writer.add("train", "tokens", tokens);
  writer.add("train", "labels", labels);
  writer.commit();
}

}  // namespace

TEST_CASE("symmetries: eight different ones, each exactly as drawn") {
  std::set<std::vector<int64_t>> seen;
  for (int s = 0; s < 8; ++s) {
    std::vector<int64_t> p = picture(0);
    apply_symmetry(p.data(), kSide, 1, s);
    seen.insert(p);
    std::sort(p.begin(), p.end());
    CHECK(p == picture(0));
  }
  CHECK(seen.size() == 8);
  const auto turned = [](int s) {
    std::vector<int64_t> p = picture(0);
    apply_symmetry(p.data(), kSide, 1, s);
    return p;
  };
  CHECK(turned(0) == picture(0));
  CHECK(turned(1) == std::vector<int64_t>{2, 1, 0, 5, 4, 3, 8, 7, 6});
  CHECK(turned(2) == std::vector<int64_t>{6, 7, 8, 3, 4, 5, 0, 1, 2});
  CHECK(turned(4) == std::vector<int64_t>{0, 3, 6, 1, 4, 7, 2, 5, 8});
  CHECK(turned(5) == std::vector<int64_t>{2, 5, 8, 1, 4, 7, 0, 3, 6});  // left and right first, then rows and columns
  std::vector<float> pairs{0, 0.5f, 1, 1.5f, 2, 2.5f, 3, 3.5f};
  apply_symmetry(pairs.data(), 2, 2, 1);
  CHECK(pairs == std::vector<float>{1, 1.5f, 0, 0.5f, 3, 3.5f, 2, 2.5f});
  CHECK(square_side(1024) == 32);
  CHECK(square_side(1000) == 0);
}

TEST_CASE("symmetries: drawn uniformly, and again the same") {
  std::vector<int> of_square(8), of_mirror(2);
  for (uint64_t draw = 0; draw < 8000; ++draw) {
    ++of_square[static_cast<size_t>(drawn_symmetry(Symmetries::square, 3, draw))];
    ++of_mirror[static_cast<size_t>(drawn_symmetry(Symmetries::mirror, 3, draw))];
    CHECK(drawn_symmetry(Symmetries::none, 3, draw) == 0);
  }
  for (const int n : of_square) CHECK(std::abs(n - 1000) < 150);  // five deviations
  for (const int n : of_mirror) CHECK(std::abs(n - 4000) < 225);
  CHECK(drawn_symmetry(Symmetries::square, 3, 77) == drawn_symmetry(Symmetries::square, 3, 77));
}

TEST_CASE("symmetries: the loader turns pictures of tokens and of numbers, keeps labels, and goes on after a seek") {
  const TemporaryFolder tmp;
  write_pictures(tmp / "tokens");
  write_pictures(tmp / "numbers", true);
  LoaderOptions plain;
  plain.batch_size = 5, plain.seed = 6, plain.prefetch = false;
  LoaderOptions turning = plain;
  turning.symmetries = Symmetries::square;
  for (const bool as_numbers : {false, true}) {
    const PreparedFolder folder(tmp / (as_numbers ? "numbers" : "tokens"));
    Loader a(folder, "train", plain), b(folder, "train", turning), resumed(folder, "train", turning);
    resumed.seek(3);
    int n_turned = 0;
    std::vector<std::vector<double>> turned_batches;
    for (int k = 0; k < 6; ++k) {
      const Batch before = a.next(), after = b.next();
      CHECK(after.labels.to_vector() == before.labels.to_vector());
      const std::vector<double> x = (as_numbers ? before.x : before.tokens).to_vector(),
                                y = (as_numbers ? after.x : after.tokens).to_vector();
      const size_t size = x.size() / 5;
      for (size_t s = 0; s < 5; ++s) {
        const std::vector<double> to(y.begin() + static_cast<std::ptrdiff_t>(s * size),
                                     y.begin() + static_cast<std::ptrdiff_t>((s + 1) * size));
        bool found = false;
        for (int symmetry = 0; symmetry < 8; ++symmetry) {
          std::vector<double> from(x.begin() + static_cast<std::ptrdiff_t>(s * size),
                                   x.begin() + static_cast<std::ptrdiff_t>((s + 1) * size));
          apply_symmetry(from.data(), kSide, as_numbers ? 2 : 1, symmetry);
          found = found || from == to;
        }
        CHECK(found);
        n_turned += !std::equal(to.begin(), to.end(), x.begin() + static_cast<std::ptrdiff_t>(s * size));
      }
      if (k >= 3) {
        const Batch again = resumed.next();
        CHECK((as_numbers ? again.x : again.tokens).to_vector() == y);
      }
    }
    CHECK(n_turned > 15);  // of 30, seven in eight on average
  }
}

TEST_CASE("symmetries: refused where there is no square picture with a label") {
  const TemporaryFolder tmp;
  write_small(tmp / "ragged");
  write_pictures(tmp / "oblong", false, 8);
  LoaderOptions turning;
  turning.batch_size = 2;
  turning.symmetries = Symmetries::mirror;
  for (const char* name : {"ragged", "oblong"})
    CHECK_SAYS(2, "task.symmetries needs square pictures with labels", Loader(PreparedFolder(tmp / name), "train", turning));
  CHECK_SAYS(2, "task.symmetries: \"rotate\" is not one of none, mirror, square", symmetries_named("rotate"));
}
