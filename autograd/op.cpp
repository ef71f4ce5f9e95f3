#include "autograd/op.h"

#include <algorithm>
#include <atomic>

namespace flare {

Device common_device(const char* op, Inputs in) {
  const Tensor* first = nullptr;
  for (const Tensor& x : in) {
    if (!x) continue;
    if (!first) first = &x;
    check(x.device() == first->device(), op, ": inputs on ", first->device(), " and ", x.device(), "; move them to one device");
  }
  check(first != nullptr, op, ": every input is undefined");
  return first->device();
}

void observe(const char* op, Outputs out) {
  if (op_observer()) op_observer()(op, std::span<const Tensor>(out.data(), out.size()));
}

void throw_no_cuda(const char* op) { throw DeviceError(cat(op, ": this program was built without CUDA")); }

void record(const char* op, Inputs in, Outputs out, Keep keep, bool adds, std::function<Grads(const Saved&, const Tensor&)> vjp) {
  const bool wanted = grad_enabled() && std::any_of(in.begin(), in.end(), [](const Tensor& x) { return requires_grad(x); });
  if (!wanted) return;
  static std::atomic<uint64_t> created{0};
  auto node = std::make_shared<Node>();
  node->name = op;
  node->scope = ScopeName::current();
  node->order = ++created;
  node->out_shape = out[0].shape();
  node->out_dtype = out[0].dtype();
  node->out_device = out[0].device();
  node->adds = adds;

  Saved saved;
  std::vector<std::pair<size_t, std::function<Tensor()>>> remade;  // inputs by index
  const bool keep_inputs = keep == Keep::inputs || keep == Keep::both || keep == Keep::inputs_and_statistics;
  const bool keep_outputs = keep == Keep::outputs || keep == Keep::both || keep == Keep::inputs_and_statistics;
  const auto keep_tensor = [&](const Tensor& x) {
    // Detached: a saved output that still pointed at its node would keep the graph alive for ever.
    const Tensor kept = x ? x.detach() : Tensor();
    if (kept) node->saved.push_back({kept, kept.storage()->version});
    return kept;
  };
  for (const Tensor& x : in) {
    node->inputs.push_back(requires_grad(x) ? x.tape() : nullptr);
    saved.wanted.push_back(requires_grad(x));
    saved.in_shapes.push_back(x ? x.shape() : Shape{});
    saved.in_dtypes.push_back(x ? x.dtype() : DType::f32);
    if (!keep_inputs) continue;
    const bool remake = x && x.tape() && x.tape()->remake;
    if (remake) remade.emplace_back(saved.inputs.size(), x.tape()->remake);
    saved.inputs.push_back(remake ? Tensor() : keep_tensor(x));
  }
  for (size_t i = 0; keep_outputs && i < out.size(); ++i)
    saved.outputs.push_back(i == 0 && keep == Keep::inputs_and_statistics ? Tensor() : keep_tensor(out[i]));

  Node* raw = node.get();
  node->vjp = [vjp = std::move(vjp), kept = std::move(saved), remade = std::move(remade), raw](const Tensor& gy, Tensor addend) {
    check(gy.shape() == raw->out_shape && gy.dtype() == raw->out_dtype, raw->name, ": cotangent ", gy.dtype(), " ", gy.shape(),
          " for an output ", raw->out_dtype, " ", raw->out_shape);
    Saved saved = kept;
    saved.addend = std::move(addend);
    for (const auto& [index, make] : remade) saved.inputs[index] = make();
    Grads grads = vjp(saved, gy);
    for (size_t i = 0; i < grads.size() && i < saved.wanted.size(); ++i) {
      if (!grads[i] || !saved.wanted[i]) continue;
      check(grads[i].shape() == saved.in_shapes[i] && grads[i].dtype() == saved.in_dtypes[i], raw->name, ": gradient of input ", i,
            " is ", grads[i].dtype(), " ", grads[i].shape(), ", the input is ", saved.in_dtypes[i], " ", saved.in_shapes[i]);
    }
    return grads;
  };
  auto tape = std::make_shared<TapeRecord>();
  tape->requires_grad = true;
  tape->producer = std::move(node);
  // A view op may return its input unchanged; recording must not overwrite the record of that tensor.
  if (out[0].tape()) out[0] = out[0].detach();
  out[0].set_tape(std::move(tape));
}

namespace {
std::vector<OpEntry>& registry() {
  static std::vector<OpEntry> ops;
  return ops;
}
}  // namespace

bool register_op(OpEntry entry) {
  std::vector<OpEntry>& ops = registry();
  const auto place =
      std::lower_bound(ops.begin(), ops.end(), entry, [](const OpEntry& a, const OpEntry& b) { return a.name < b.name; });
  check(place == ops.end() || place->name != entry.name, "register_op: two ops are named ", entry.name);
  ops.insert(place, std::move(entry));
  return true;
}

const std::vector<OpEntry>& registered_ops() { return registry(); }

const OpEntry& find_op(const std::string& name) {
  for (const OpEntry& op : registry())
    if (op.name == name) return op;
  throw ConfigError(cat("no op is named ", name));
}

}  // namespace flare
