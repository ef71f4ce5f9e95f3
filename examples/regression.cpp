/// The smallest training: two layers learn sin(3x) from 256 points.   ./regression [cpu|cuda]
#include <cmath>
#include <cstdio>
#include <vector>

#include <flare/autograd/node.h>
#include <flare/nn/linear.h>
#include <flare/nn/optim/optimizer.h>
#include <flare/ops/loss.h>
#include <flare/ops/pointwise.h>

using namespace flare;

/// y = W₂ tanh(W₁ x + b₁) + b₂.  x: [n,1] -> [n,1]
class Net : public Module {
 public:
  explicit Net(Rng& rng) : hidden_(1, 64, rng), out_(64, 1, rng) {
    add_child("hidden", hidden_);  // so parameters() finds hidden.weight, hidden.bias, ...
    add_child("out", out_);
  }
  Tensor forward(const Tensor& x) const { return out_.forward(tanh(hidden_.forward(x))); }

 private:
  Linear hidden_, out_;
};

int main(int argc, char** argv) {
  const Device device = parse_device(argc > 1 ? argv[1] : "auto");
  std::vector<float> points, values;
  for (int i = 0; i < 256; ++i) {
    points.push_back(static_cast<float>(i) / 128 - 1);
    values.push_back(std::sin(3 * points.back()));
  }
  const Tensor x = Tensor::from(points, {256, 1}, device), y = Tensor::from(values, {256, 1}, device);

  Rng rng(0);  // the same seed, the same weights
  Net net(rng);
  net.to(device);  // before the optimizer takes hold of the parameters
  OptimConfig config;
  config.lr = 5e-2;
  const int steps = 1000;
  Optimizer optimizer(net.parameters(), config, steps);  // AdamW; the rate rises and falls over the steps
  double error = 0;
  for (int step = 1; step <= steps; ++step) {
    optimizer.zero_grad();
    const Tensor loss = mse(net.forward(x), y);  // eager, and recorded on the tape
    backward(loss);
    optimizer.step();
    if (step % 100 == 0) std::printf("step %4d  loss %.2e\n", step, error = loss.item());  // item() waits for the device
  }
  return error < 1e-3 ? 0 : 1;
}
