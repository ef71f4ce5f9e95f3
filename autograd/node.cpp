#include "autograd/node.h"

namespace flare {
namespace {
thread_local bool recording = true;
thread_local std::string scope_path;
}  // namespace

Node::~Node() {
  // Whatever this node was the last to hold is moved to a list of this thread and let go from there, not from inside here.
  thread_local std::vector<std::shared_ptr<TapeRecord>> doomed;
  thread_local bool draining = false;
  for (std::shared_ptr<TapeRecord>& input : inputs)
    if (input) doomed.push_back(std::move(input));
  if (draining) return;
  draining = true;
  while (!doomed.empty()) {
    const std::shared_ptr<TapeRecord> last = std::move(doomed.back());
    doomed.pop_back();
  }
  draining = false;
}

bool grad_enabled() { return recording; }
NoGrad::NoGrad() : before_(recording) { recording = false; }
NoGrad::~NoGrad() { recording = before_; }

ScopeName::ScopeName(const std::string& path) : before_(scope_path) {
  if (!path.empty()) scope_path = before_.empty() ? path : before_ + "." + path;
}
ScopeName::~ScopeName() { scope_path = std::move(before_); }
const std::string& ScopeName::current() { return scope_path; }

OpObserver& op_observer() {
  static OpObserver observer;
  return observer;
}

bool requires_grad(const Tensor& x) { return x && x.tape() && x.tape()->requires_grad; }

void set_requires_grad(const Tensor& x, bool on) {
  check(is_float(x.dtype()), "requires_grad: a ", x.dtype(), " tensor has no gradient");
  check(!x.tape() || !x.tape()->producer, "requires_grad: only a leaf can collect a gradient; this tensor is an output of ",
        x.tape() && x.tape()->producer ? x.tape()->producer->name : "");
  if (!x.tape()) x.set_tape(std::make_shared<TapeRecord>());
  x.tape()->requires_grad = on;
}

void remake_in_backward(const Tensor& x, std::function<Tensor()> make) {
  if (requires_grad(x) && grad_enabled()) x.tape()->remake = std::move(make);
}
std::function<Tensor()> source_of(const Tensor& x) {
  if (x.tape() && x.tape()->remake) return x.tape()->remake;
  return [kept = x.detach()] { return kept; };
}

Tensor grad(const Tensor& x) {
  if (!x.tape()) return {};
  TapeRecord& leaf = *x.tape();
  if (leaf.grad && leaf.grad_is_void) fill(leaf.grad, 0);
  leaf.grad_is_void = false;
  return leaf.grad;
}
void clear_grad(const Tensor& x) {
  if (!x.tape()) return;
  x.tape()->grad = Tensor();
  x.tape()->grad_is_void = false;
}

}  // namespace flare
