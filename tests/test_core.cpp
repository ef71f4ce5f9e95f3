#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

#include "core/allocator.h"
#include "core/math.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "core/tensor.h"

using namespace flare;

TEST_CASE("shapes: extents, strides, overflow") {
  const Shape s{2, 3, 4};
  CHECK(s.numel() == 24);
  CHECK(s[-1] == 4);
  CHECK(s.strides() == Shape{12, 4, 1});
  CHECK(s.without(1) == Shape{2, 4});
  CHECK(Shape{}.numel() == 1);
  CHECK_THROWS_WITH_AS(s[3], "shape: axis 3 is outside [2,3,4]", ShapeError);
  CHECK_THROWS_AS((Shape{int64_t{1} << 40, int64_t{1} << 40}.numel()), ShapeError);
  CHECK_THROWS_AS((Shape{-1, 2}.numel()), ShapeError);
  CHECK(broadcast_shape({2, 1, 4}, {3, 1}, "t") == Shape{2, 3, 4});
  CHECK_THROWS_WITH_AS(broadcast_shape({2, 3}, {4}, "add"), "add: shapes [2,3] and [4] do not broadcast (axis 1: 3 against 4)",
                       ShapeError);
}

TEST_CASE("bf16 rounds to nearest even and keeps NaN") {
  CHECK(static_cast<float>(bf16(1.0f)) == 1.0f);
  CHECK(static_cast<float>(bf16(1.00390625f)) == 1.0f);       // halfway, even below
  CHECK(static_cast<float>(bf16(1.01171875f)) == 1.015625f);  // halfway, even above
  CHECK(std::isnan(static_cast<float>(bf16(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(std::isinf(static_cast<float>(bf16(3.4e38f))));
}

TEST_CASE("tensors: views, copies, conversion") {
  const Tensor x = Tensor::from<float>({0, 1, 2, 3, 4, 5}, {2, 3});
  const Tensor t = x.view({3, 2}, {1, 3});
  CHECK_FALSE(t.is_contiguous());
  CHECK(contiguous(t).to_vector() == std::vector<double>{0, 3, 1, 4, 2, 5});
  CHECK(t.item(1) == 3);
  CHECK(t.same_storage(x));
  CHECK(cast_to(t, DType::i64).to_vector() == std::vector<double>{0, 3, 1, 4, 2, 5});
  const uint64_t version = x.storage()->version;
  accumulate(contiguous(t), t);
  CHECK(x.storage()->version > version);
  CHECK(x.to_vector() == std::vector<double>{0, 2, 4, 6, 8, 10});
  fill(x.view({2}, {3}, 1), -1);
  CHECK(x.to_vector() == std::vector<double>{0, -1, 4, 6, -1, 10});
  CHECK_THROWS_AS(x.view({7}, {1}), ShapeError);
  CHECK_THROWS_AS(x.view({2}, {1}, -1), ShapeError);
  CHECK_THROWS_AS(x.data<double>(), ShapeError);
  CHECK_THROWS_AS(Tensor::from<float>({1, 2}, {3}), ShapeError);
  CHECK_THROWS_AS(copy(x, t), ShapeError);
  CHECK(Tensor::zeros({0, 4}, DType::f32).to_vector().empty());
}

TEST_CASE("the allocator reuses blocks, counts them, and refuses beyond its limit") {
  const Device d = Device::cpu;
  release_cached(d);
  const MemoryStats before = memory_stats(d);
  { const Tensor a = Tensor::empty({1 << 20}, DType::f32, d); }
  reset_peak(d);
  const int64_t system = memory_stats(d).n_system_allocations;
  for (int i = 0; i < 5; ++i) const Tensor b = Tensor::empty({1 << 20}, DType::f32, d);
  CHECK(memory_stats(d).n_system_allocations == system);
  CHECK(memory_stats(d).peak - memory_stats(d).current == 4 << 20);
  CHECK(memory_stats(d).current == before.current);
  set_memory_limit(d, memory_stats(d).reserved + (8 << 20));
  CHECK_THROWS_AS(Tensor::empty({64 << 20}, DType::u8, d), OutOfMemory);
  try {
    Tensor::empty({64 << 20}, DType::u8, d);
  } catch (const OutOfMemory& e) {
    CHECK(e.requested == 64 << 20);
    CHECK(std::string(e.what()).find("64 MiB asked for") != std::string::npos);
    CHECK(e.exit_code() == 4);
  }
  set_memory_limit(d, 0);
  CHECK_NOTHROW(Tensor::empty({64 << 20}, DType::u8, d));
  CHECK(reinterpret_cast<uintptr_t>(Tensor::empty({3}, DType::u8, d).raw()) % 256 == 0);
}

TEST_CASE("Philox: known answers of the Random123 library, streams, ranges") {
  const Philox4 zero = philox(0, 0, 0);  // kat_vectors: philox4x32 10, all zero
  CHECK(zero.w[0] == 0x6627e8d5u);
  CHECK(zero.w[1] == 0xe169c58du);
  CHECK(zero.w[2] == 0xbc57ac4cu);
  CHECK(zero.w[3] == 0x9b00dbd8u);
  Rng a(1), b(1), c(2);
  CHECK(a.next_u64() == b.next_u64());
  CHECK(a.next_u64() != c.next_u64());
  double sum = 0, squares = 0;
  std::set<uint64_t> seen;
  for (int i = 0; i < 20000; ++i) {
    const double n = a.normal();
    sum += n;
    squares += n * n;
    seen.insert(b.below(7));
    const double u = c.uniform();
    REQUIRE((u >= 0 && u < 1));
  }
  CHECK(std::abs(sum / 20000) < 0.03);
  CHECK(std::abs(squares / 20000 - 1) < 0.05);
  CHECK(seen.size() == 7);
  CHECK(*seen.rbegin() == 6);
  CHECK(uniform_float(0xffffffffu) < 1.0f);
}

TEST_CASE("fast exp and tanh stay close to the library's") {
  double worst_exp = 0, worst_negative = 0, worst_tanh = 0;
  for (int i = -870000; i <= 887000; ++i) {
    const float x = static_cast<float>(i) * 1e-4f;
    const double e = std::exp(static_cast<double>(x));
    worst_exp = std::max(worst_exp, std::abs(exp_of(x) - e) / e);
    if (x <= 0) worst_negative = std::max(worst_negative, std::abs(exp_of_negative(x) - e) / e);
    if (x != 0)
      worst_tanh =
          std::max(worst_tanh, std::abs((tanh_of(x) - std::tanh(static_cast<double>(x))) / std::tanh(static_cast<double>(x))));
  }
  CHECK(worst_exp < 2.5e-7);
  CHECK(worst_negative < 2.5e-7);
  CHECK(worst_tanh < 3.6e-7);
  CHECK(exp_of(-200.0f) == 0.0f);
  CHECK(std::isinf(exp_of(100.0f)));
  CHECK(std::isnan(exp_of(std::nanf(""))));
  CHECK(exp_of_negative(0.0f) == 1.0f);
  CHECK(exp_of_negative(-200.0f) == 0.0f);
  CHECK(exp_of_negative(-INFINITY) == 0.0f);
  CHECK(std::isnan(exp_of_negative(std::nanf(""))));
  CHECK(std::isnan(tanh_of(std::nanf(""))));
  CHECK(tanh_of(100.0f) == 1.0f);
  CHECK(tanh_of(0.0f) == 0.0f);
}

TEST_CASE("parallel_for covers every index once and passes exceptions on") {
  std::vector<int> hits(1003, 0);
  parallel_for(1003, 10, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
  });
  CHECK(std::all_of(hits.begin(), hits.end(), [](int h) { return h == 1; }));
  CHECK_THROWS_AS(parallel_for(100, 1,
                               [](int64_t i, int64_t) {
                                 if (i == 50) throw ShapeError("x");
                               }),
                  ShapeError);
  parallel_for(0, 1, [](int64_t, int64_t) { FAIL("called for nothing"); });
}

TEST_CASE("devices: words, and a clear refusal without a GPU") {
  CHECK(parse_device("cpu") == Device::cpu);
  CHECK_THROWS_AS(parse_device("gpu"), ConfigError);
  CHECK_THROWS_AS(parse_device("cuda:x"), ConfigError);
  if (cuda_available()) {
    CHECK(parse_device("auto") == Device::cuda);
    CHECK_THROWS_AS(parse_device("cuda:99"), DeviceError);
    const Tensor x = Tensor::from<float>({1, 2, 3, 4, 5, 6}, {2, 3}, Device::cuda);
    CHECK(x.view({3, 2}, {1, 3}).to_vector() == std::vector<double>{1, 4, 2, 5, 3, 6});
    CHECK(cast_to(x, DType::bf16).to_vector() == std::vector<double>{1, 2, 3, 4, 5, 6});
    accumulate(x, x);
    CHECK(x.to_vector() == std::vector<double>{2, 4, 6, 8, 10, 12});
    set_memory_limit(Device::cuda, memory_stats(Device::cuda).reserved + (1 << 20));
    CHECK_THROWS_AS(Tensor::empty({1 << 30}, DType::u8, Device::cuda), OutOfMemory);
    set_memory_limit(Device::cuda, 0);
  } else {
    CHECK(parse_device("auto") == Device::cpu);
    CHECK_THROWS_AS(parse_device("cuda"), DeviceError);
    MESSAGE("no GPU: the device half of this test was skipped");
  }
}

TEST_CASE("parallel_for: nested and concurrent calls, other thread counts, forked children") {
  const int before = thread_count();
  for (int n : {1, 2, 5}) {
    set_thread_count(n);
    std::vector<int64_t> sums(50, 0);
    for (int repeat = 0; repeat < 200; ++repeat)
      parallel_for(50, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          parallel_for(4, 1, [&](int64_t b, int64_t e) {
            for (int64_t j = b; j < e; ++j) sums[static_cast<size_t>(i)] += j;
          });
      });
    CHECK(std::all_of(sums.begin(), sums.end(), [](int64_t s) { return s == 200 * 6; }));
  }
  std::vector<std::thread> callers;
  std::atomic<int64_t> total{0};
  for (int t = 0; t < 4; ++t)
    callers.emplace_back([&] {
      for (int r = 0; r < 100; ++r) parallel_for(64, 2, [&](int64_t b, int64_t e) { total += e - b; });
    });
  for (std::thread& t : callers) t.join();
  CHECK(total == 4 * 100 * 64);
  const pid_t child = ::fork();
  if (child == 0) {
    int64_t sum = 0;
    parallel_for(10, 1, [&](int64_t b, int64_t) { sum += b; });
    ::_exit(sum == 45 ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  set_thread_count(before);
}
