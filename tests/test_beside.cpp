/// Work on a second stream: the same bits with it and without, what is kept for it, and gradients that others wait for after all.
#include "autograd/node.h"
#include "core/allocator.h"
#include "core/beside.h"
#include "nn/models/pde_operator.h"
#include "ops/linear.h"
#include "ops/pointwise.h"
#include "tests/nn_fixtures.h"
#include "tests/tensor_fixtures.h"

using namespace flare;

namespace {

/// Switched off for its life.
struct WithoutBeside {
  WithoutBeside() { set_beside(false); }
  ~WithoutBeside() { set_beside(true); }
};

/// Output and all gradients of a small FLARE, each as numbers.
std::vector<std::vector<double>> run_flare(DType dtype, int64_t rows) {
  ModelConfig config;
  config.channels = 64, config.heads = 8, config.latents = 16, config.blocks = 3;
  PdeOperator model(config, 2, 1, 5);
  model.to(Device::cuda);
  std::vector<std::vector<double>> all;
  for (int pass = 0; pass < 2; ++pass) {  // the second adds to the first's gradients
    Context context;
    context.dtype = dtype;
    const Tensor x = to_device(uniform({2, rows, 2}, DType::f32, static_cast<uint64_t>(pass)), Device::cuda);
    const Tensor y = model.forward(x, {}, context);
    all.push_back(y.to_vector());
    backward(y, y.detach());
  }
  for (const Parameter& p : model.parameters()) all.push_back(grad(p.value).to_vector());
  return all;
}

}  // namespace

TEST_CASE("beside: a model's output and gradients have the same bits on one stream and on two") {
  if (!cuda_available()) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const int64_t rows : {37, 972, 5000}) {
      std::vector<std::vector<double>> expected;
      {
        const WithoutBeside one_stream;
        expected = run_flare(dtype, rows);
      }
      for (int again = 0; again < 5; ++again) CHECK(run_flare(dtype, rows) == expected);
    }
}

TEST_CASE("beside: the gradient of a weight that was itself computed") {
  if (!cuda_available()) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  const auto gradient = [] {
    const Tensor x = to_device(uniform({3000, 256}, DType::f32, 1), Device::cuda);
    const Tensor w = to_device(uniform({256, 256}, DType::f32, 2), Device::cuda);
    set_requires_grad(w);
    const Tensor y = linear(x, w * w, {});
    backward(y, y.detach());
    return grad(w).to_vector();
  };
  std::vector<double> expected;
  {
    const WithoutBeside one_stream;
    expected = gradient();
  }
  for (int again = 0; again < 5; ++again) CHECK(gradient() == expected);
}

TEST_CASE("beside: memory given back meanwhile waits for the join, and only inside a scope") {
  if (!cuda_available()) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  constexpr int64_t kBytes = 1 << 20;
  const auto temporary = [] { Tensor::empty({kBytes}, DType::u8, Device::cuda); };
  const auto live = [] { return memory_stats(Device::cuda).current; };
  const Tensor touched = Tensor::empty({256}, DType::u8, Device::cuda);
  const int64_t before = live();
  {
    const Beside outside({touched});
    temporary();
  }
  CHECK(live() == before);
  {
    const BesideScope scope;
    Tensor result;
    {
      const Beside beside({touched});
      CHECK(compute_stream(Device::cuda).handle == beside_stream()->handle);
      temporary();
      beside.made(result = Tensor::empty({512}, DType::u8, Device::cuda));
    }
    CHECK(beside_stream() == nullptr);
    temporary();  // of the first stream: goes at once
    CHECK(live() == before + kBytes + 512);
    CHECK(is_beside(result.viewed_as({2, 256})));
    CHECK_FALSE(is_beside(touched));
    join_beside();
    CHECK_FALSE(is_beside(result));
    CHECK(live() == before + 512);
    {
      const Beside beside({touched});
      temporary();
      const Beside inner({result});  // nothing new
    }
    CHECK(live() == before + kBytes + 512);
  }
  CHECK(live() == before);
}
