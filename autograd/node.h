#pragma once
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace flare {

/// One gradient per input, in order; an undefined tensor where the input has none (integers, masks) or none is needed.
using Grads = std::vector<Tensor>;

struct Node;

/// What the tape knows about a tensor: whether it wants a gradient, the gradient itself (leaves), and the node that made it.
struct TapeRecord {
  bool requires_grad = false;
  Tensor grad;                     // leaves only
  bool grad_is_void = false;       // what grad holds counts as zero: the next gradient replaces it, and nothing had to clear it
  std::shared_ptr<Node> producer;  // null for leaves
  std::function<Tensor()> remake;  // see remake_in_backward
};

/// A tensor a node keeps for its backward pass, with the storage version it had when it was kept.
struct SavedTensor {
  Tensor tensor;
  uint64_t version = 0;
};

/// One recorded operation: where its inputs came from and how a cotangent of its output becomes cotangents of its inputs.
struct Node {
  const char* name = "";
  std::string scope;   // dotted module path at the time of the call, for error messages
  uint64_t order = 0;  // creation index: backward runs from high to low, so sums are always taken in the same order
  Shape out_shape;
  DType out_dtype = DType::f32;
  Device out_device = Device::cpu;
  std::vector<std::shared_ptr<TapeRecord>> inputs;  // null where no gradient is wanted
  std::vector<SavedTensor> saved;
  bool adds = false;  // vjp adds the gradient of input 0 to `addend`, if that is defined
  std::function<Grads(const Tensor& gy, Tensor addend)> vjp;
  bool released = false;
  ~Node();  // takes a long chain of nodes down one by one, so that dropping a deep graph needs no deep stack
};

/// Recording is on unless a NoGrad lives in this thread.
bool grad_enabled();
class NoGrad {
 public:
  NoGrad();
  ~NoGrad();
  NoGrad(const NoGrad&) = delete;
  NoGrad& operator=(const NoGrad&) = delete;

 private:
  bool before_;
};

bool requires_grad(const Tensor& x);
/// Makes x a leaf that collects a gradient. ShapeError unless x is floating and not itself the output of a recorded op.
void set_requires_grad(const Tensor& x, bool on = true);
/// The gradient of a leaf; undefined before backward. Clears one that is void.
Tensor grad(const Tensor& x);
void clear_grad(const Tensor& x);

/// From here on nothing keeps x for its backward pass: whoever would, calls make() there in its place. make() must return the same
/// bits and hold no more than what it needs; it runs without a tape. Memory for time: see train.recompute. x: just made, before any
/// op reads it. Without effect where x wants no gradient.
void remake_in_backward(const Tensor& x, std::function<Tensor()> make);
/// A function that returns x without holding it if x is remade, and holding it otherwise.
std::function<Tensor()> source_of(const Tensor& x);

/// Runs the tape backward from y with cotangent gy (default: 1, y must then have one element) and adds into the leaves'
/// gradients. Iterative, so depth is no limit; frees what nodes saved unless keep_graph. ShapeError when y is not on the
/// tape, when the graph was freed by an earlier call, or when a saved tensor was written to in place since.
void backward(const Tensor& y, const Tensor& gy = {}, bool keep_graph = false);

/// Dotted path of the module being executed, for messages: pushed by Module calls.
class ScopeName {
 public:
  explicit ScopeName(const std::string& path);
  ~ScopeName();
  ScopeName(const ScopeName&) = delete;
  ScopeName& operator=(const ScopeName&) = delete;
  static const std::string& current();

 private:
  std::string before_;
};

/// When set, sees the outputs of every op as it runs: finding the first non-finite tensor, profiling, counting.
using OpObserver = std::function<void(const char* op, std::span<const Tensor> outputs)>;
OpObserver& op_observer();

}  // namespace flare
