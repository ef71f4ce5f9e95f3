#include "nn/module.h"

namespace flare {

void Module::add_parameter(const std::string& name, Tensor& slot, const Tensor& value, bool decay) {
  slot = value;
  set_requires_grad(slot);
  slots_.push_back({name, &slot, decay, true});
}

void Module::add_buffer(const std::string& name, Tensor& slot, const Tensor& value) {
  slot = value;
  slots_.push_back({name, &slot, false, false});
}

void Module::add_child(const std::string& name, Module& child) { children_.emplace_back(name, &child); }

void Module::visit(const std::string& prefix, const std::function<void(const std::string&, const Slot&)>& see) const {
  for (const bool trained : {true, false})
    for (const Slot& slot : slots_)
      if (slot.trained == trained) see(prefix + slot.name, slot);
  for (const auto& [name, child] : children_) child->visit(prefix + name + ".", see);
}

std::vector<Parameter> Module::parameters() const {
  std::vector<Parameter> all;
  visit("", [&](const std::string& name, const Slot& slot) {
    if (slot.trained) all.push_back({name, *slot.tensor, slot.decay});
  });
  return all;
}

std::vector<NamedTensor> Module::buffers() const {
  std::vector<NamedTensor> all;
  visit("", [&](const std::string& name, const Slot& slot) {
    if (!slot.trained) all.push_back({name, *slot.tensor});
  });
  return all;
}

std::vector<NamedTensor> Module::state() const {
  std::vector<NamedTensor> all;
  visit("", [&](const std::string& name, const Slot& slot) { all.push_back({name, slot.tensor->detach()}); });
  return all;
}

int64_t Module::parameter_count() const {
  int64_t n = 0;
  for (const Parameter& p : parameters()) n += p.value.numel();
  return n;
}

void Module::replace(const std::function<Tensor(const Tensor&)>& make) {
  for (const Slot& slot : slots_) {
    const Tensor next = make(slot.tensor->detach());
    if (next.same_storage(*slot.tensor)) continue;
    *slot.tensor = next;
    if (slot.trained) set_requires_grad(*slot.tensor);
  }
  for (const auto& [name, child] : children_) child->replace(make);
}

void Module::to(Device device) {
  replace([device](const Tensor& x) { return to_device(x, device); });
}
void Module::to(DType dtype) {
  replace([dtype](const Tensor& x) { return cast_to(x, dtype); });
}

Tensor normal_tensor(const Shape& shape, double sigma, Rng& rng) {
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  for (float& v : values) v = static_cast<float>(sigma * rng.normal());
  return Tensor::from(values, shape);
}

}  // namespace flare
