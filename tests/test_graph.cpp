/// Captured graphs, and the memory they keep.
#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "core/allocator.h"
#include "core/graph.h"
#include "ops/flare_mixer.h"
#include "ops/pointwise.h"

using namespace flare;

TEST_CASE("a hold keeps every block of its capture until it is released") {
  constexpr int64_t n = 3 << 20;  // a size class no other test uses
  const auto make = [] { return Tensor::empty({n}, DType::u8); };
  release_cached(Device::cpu);
  const int64_t held_before = memory_stats(Device::cpu).held;
  Tensor before = make();
  const void* const freed_inside = before.raw();
  const int64_t hold = begin_hold(Device::cpu);
  CHECK_THROWS_AS(begin_hold(Device::cpu), DeviceError);
  CHECK_THROWS_AS(release_cached(Device::cpu), DeviceError);
  before = {};
  Tensor temporary = make();
  CHECK(temporary.raw() == freed_inside);  // inside, a block is handed out again at once
  Tensor result = make();
  const void* const kept = result.raw();
  CHECK(kept != freed_inside);
  temporary = {};
  end_hold(Device::cpu);
  CHECK(memory_stats(Device::cpu).held - held_before == n);
  {
    const Tensor other = make(), another = make();  // outside, not
    for (const Tensor& x : {other, another}) CHECK((x.raw() != freed_inside && x.raw() != kept));
  }
  result = {};  // the result of a capture, let go later
  CHECK(memory_stats(Device::cpu).held - held_before == 2 * n);
  release_cached(Device::cpu);  // leaves the hold alone
  CHECK(memory_stats(Device::cpu).held - held_before == 2 * n);
  const Tensor outside = make();
  CHECK((outside.raw() != freed_inside && outside.raw() != kept));
  release_hold(Device::cpu, hold);
  CHECK(memory_stats(Device::cpu).held == held_before);
  const Tensor a = make(), b = make();
  for (const Tensor& x : {a, b}) CHECK((x.raw() == freed_inside || x.raw() == kept));
  release_hold(Device::cpu, hold);  // a second time changes nothing
}

TEST_CASE("a block of one hold stays with it when a later capture frees it") {
  constexpr int64_t n = 5 << 20;
  release_cached(Device::cpu);
  const int64_t first = begin_hold(Device::cpu);
  Tensor x = Tensor::empty({n}, DType::u8);
  end_hold(Device::cpu);
  const void* const block = x.raw();
  const int64_t second = begin_hold(Device::cpu);
  x = {};
  CHECK(Tensor::empty({n}, DType::u8).raw() != block);
  end_hold(Device::cpu);
  release_hold(Device::cpu, second);
  CHECK(Tensor::empty({n}, DType::u8).raw() != block);
  release_hold(Device::cpu, first);
}

TEST_CASE("a hold that goes on serves later captures from what earlier ones let go") {
  constexpr int64_t n = 7 << 20;
  release_cached(Device::cpu);
  const auto make = [] { return Tensor::empty({n}, DType::u8); };
  const int64_t hold = begin_hold(Device::cpu);
  const Tensor result = make();
  Tensor temporary = make();
  const void* const block = temporary.raw();
  temporary = {};
  end_hold(Device::cpu);
  CHECK(begin_hold(Device::cpu, hold) == hold);
  CHECK(make().raw() == block);
  const Tensor a = make(), b = make();
  CHECK((a.raw() != result.raw() && b.raw() != result.raw()));
  end_hold(Device::cpu);
  release_hold(Device::cpu, hold);
  CHECK_THROWS_AS(begin_hold(Device::cpu, hold), DeviceError);
}

TEST_CASE("a graph replays what was captured, on new inputs and in memory of its own") {
  Graph graph;
  CHECK_FALSE(graph);
  CHECK_THROWS_AS(graph.replay(), DeviceError);
  if (!cuda_available()) {
    CHECK_THROWS_AS(graph.capture([] {}), DeviceError);
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  const auto upload = [](double value) { return Tensor::full({1000}, value, DType::f32, Device::cuda); };
  const Tensor x = upload(2);
  Tensor y;
  const auto body = [&] { y = affine(affine(x, 3, 0), 1, 1); };
  body();
  graph.capture(body);
  REQUIRE(graph);
  CHECK(graph.n_nodes() == 2);
  std::vector<Tensor> others;  // would be handed the graph's temporaries, were they free
  for (int i = 0; i < 8; ++i) others.push_back(upload(-1));
  graph.replay();
  CHECK(y.item(999) == 7);
  copy(upload(5), x);
  graph.replay();
  CHECK(y.item(0) == 16);
  for (const Tensor& other : others) CHECK(other.item(500) == -1);

  // A body that waits for the device cannot be recorded; the graph is empty then and the device goes on.
  CHECK_THROWS_AS(graph.capture([&] { affine(x, 1, 0).item(); }), DeviceError);
  CHECK_FALSE(graph);
  CHECK_THROWS_AS(graph.capture([&] { throw ShapeError("from the body"); }), ShapeError);
  CHECK(affine(x, 2, 0).item(3) == 10);
  Graph outer;
  CHECK_THROWS_AS(outer.capture([&] { graph.capture([] {}); }), DeviceError);
  CHECK(memory_stats(Device::cuda).held == 0);
}

TEST_CASE("a captured forward and backward of the mixer gives the bits of the eager one") {
  if (!cuda_available()) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  const auto input = [](const Shape& shape, DType dtype, uint64_t seed) {
    return to_device(make_inputs(Sample{"", {{.shape = shape}}, {}}, dtype, seed)[0], Device::cuda);
  };
  const Tensor q = input({2, 20, 16}, DType::f32, 1), k = input({2, 700, 32}, DType::bf16, 2),
               v = input({2, 700, 32}, DType::bf16, 3), g = input({2, 700, 32}, DType::bf16, 4);
  for (const Tensor& leaf : {q, k, v}) set_requires_grad(leaf);
  Tensor y;
  const auto body = [&] {
    for (const Tensor& leaf : {q, k, v}) clear_grad(leaf);
    y = flare_mixer(q, k, v, {}, 1);
    backward(y, g);
    y = y.detach();
  };
  body();
  const std::vector<Tensor> eager = {clone(y), clone(grad(q)), clone(grad(k)), clone(grad(v))};
  Graph graph;
  graph.capture(body);
  const std::vector<Tensor> captured = {y, grad(q), grad(k), grad(v)};
  for (const Tensor& x : captured) fill(x, 1e30);
  graph.replay();
  for (size_t i = 0; i < eager.size(); ++i) CHECK(relative_difference(captured[i], eager[i]) == 0);
}
