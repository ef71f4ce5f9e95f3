/// The engine: walks the tape from an output to the leaves. It knows no op.
#include <queue>
#include <unordered_map>
#include <utility>

#include "autograd/node.h"
#include "core/beside.h"
#include "core/copy_many.h"

namespace flare {
namespace {

/// A running sum of cotangents. The first one is kept as it came, since an op may hand one tensor to several inputs; what nobody
/// else holds is added to in place.
struct Cotangent {
  Tensor value;
  void add(Tensor g) {
    if (!value)
      value = std::move(g);
    else if (value.is_sole_owner() && value.is_contiguous())
      accumulate(g, value);
    else
      value = sum_of(value, g);
  }
};

/// What goes into the leaves, all together at the end: a model has hundreds of small parameters, and one launch serves many.
class Deliveries {
 public:
  /// A defined gradient (an optimizer's buffer, or an earlier backward) is added to in place. Otherwise the leaf keeps g, or a copy
  /// of it where g shares its bytes, perhaps with the cotangent of another tensor.
  void add(const std::shared_ptr<TapeRecord>& leaf, Tensor g) {
    if (!leaf->grad) {
      if (is_beside(g)) join_beside();
      leaf->grad = g.is_sole_owner() && g.is_contiguous() ? std::move(g) : clone(g);
      return;
    }
    const size_t round = n_of_[leaf.get()]++;
    if (round == rounds_.size()) rounds_.emplace_back();
    rounds_[round].push_back({leaf, std::move(g)});
  }
  /// Round r holds each leaf's r-th gradient, so sums are taken in the order in which gradients came.
  void flush() {
    for (const auto& round : rounds_) {
      std::vector<CopyPair> copies, sums;
      for (const auto& [leaf, g] : round) {
        (leaf->grad_is_void ? copies : sums).push_back({g, leaf->grad});
        leaf->grad_is_void = false;
      }
      copy_many(copies);
      accumulate_many(sums);
    }
  }

 private:
  std::unordered_map<TapeRecord*, size_t> n_of_;
  std::vector<std::vector<std::pair<std::shared_ptr<TapeRecord>, Tensor>>> rounds_;
};

void check_saved(const Node& node) {
  for (const SavedTensor& s : node.saved)
    check(!s.tensor || s.tensor.storage()->version == s.version, "backward: a tensor that ", node.name,
          node.scope.empty() ? "" : " in ", node.scope, " saved was written to in place before backward; clone it first");
}

}  // namespace

void backward(const Tensor& y, const Tensor& gy, bool keep_graph) {
  check(requires_grad(y), "backward: the tensor ", y ? "was not computed from anything that requires a gradient" : "is undefined");
  check(gy || y.numel() == 1, "backward: an output of shape ", y.shape(), " needs a cotangent of that shape");
  check(!gy || gy.shape() == y.shape(), "backward: cotangent ", gy ? gy.shape() : Shape{}, " for an output of shape ", y.shape());
  const NoGrad no_grad;
  const Tensor seed = gy ? cast_to(gy, y.dtype()) : Tensor::full(y.shape(), 1, y.dtype(), y.device());
  if (!y.tape()->producer) {
    Deliveries only;
    only.add(y.tape(), seed);
    only.flush();
    return;
  }

  // Creation order is a topological order: a node's consumers were all created after it. Taking the newest pending node first
  // therefore sees every consumer before the node itself, with no counting pass and no recursion.
  const auto older = [](const Node* a, const Node* b) { return a->order < b->order; };
  std::priority_queue<Node*, std::vector<Node*>, decltype(older)> pending(older);
  std::unordered_map<Node*, Cotangent> sums;
  Deliveries deliveries;
  std::vector<std::shared_ptr<Node>> alive;  // nodes stay valid while their consumers are torn down
  const BesideScope beside_scope;            // for gradients of weights, which nothing waits for before the end
  const auto push = [&](const std::shared_ptr<Node>& node, Tensor g) {
    if (is_beside(g)) join_beside();  // of a weight that was computed from others
    const auto [entry, is_new] = sums.try_emplace(node.get());
    if (is_new) {
      pending.push(node.get());
      alive.push_back(node);
    }
    entry->second.add(std::move(g));
  };
  const auto take_sum = [&](const std::shared_ptr<TapeRecord>& of) {  // so far; none of a leaf
    const auto found = of && of->producer ? sums.find(of->producer.get()) : sums.end();
    return found == sums.end() ? Tensor() : std::move(found->second.value);
  };
  push(y.tape()->producer, seed);

  while (!pending.empty()) {
    Node* node = pending.top();
    pending.pop();
    const Tensor g = std::move(sums[node].value);
    sums.erase(node);
    check(!node->released, "backward: the graph of ", node->name,
          " was freed by an earlier backward; pass keep_graph to the first call");
    check_saved(*node);
    const ScopeName scope(node->scope);
    Grads grads = node->vjp(g, node->adds ? take_sum(node->inputs[0]) : Tensor());
    check(grads.size() == node->inputs.size(), node->name, ": vjp returned ", grads.size(), " gradients for ", node->inputs.size(),
          " inputs");
    for (size_t i = 0; i < grads.size(); ++i) {
      const std::shared_ptr<TapeRecord>& input = node->inputs[i];
      if (!input) continue;
      check(grads[i].defined(), node->name, ": no gradient for input ", i, ", which requires one");
      if (input->producer)
        push(input->producer, std::move(grads[i]));
      else
        deliveries.add(input, std::move(grads[i]));
    }
    if (!keep_graph) {
      node->released = true;
      node->vjp = nullptr;
      node->saved.clear();
      node->inputs.clear();  // links go here, one by one: destruction never recurses down a deep graph
    }
  }
  join_beside();
  deliveries.flush();
}

}  // namespace flare
