#pragma once
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "autograd/node.h"
#include "core/rng.h"
#include "core/safetensors.h"

namespace flare {

/// One trainable tensor: a handle to the module's own, its dotted name, and whether weight decay applies to it.
struct Parameter {
  std::string name;
  Tensor value;
  bool decay = true;
};

/// A node of the model tree. Members register themselves by name in the constructor; a name is a checkpoint key, and the order
/// (own parameters, own buffers, then children, each as registered) is that of PyTorch's state_dict. Modules stay where they are
/// built.
class Module {
 public:
  Module() = default;
  virtual ~Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  std::vector<Parameter> parameters() const;
  int64_t parameter_count() const;
  /// The tensors that belong to the weights without being trained: checkpoints hold them, optimizers do not see them.
  std::vector<NamedTensor> buffers() const;
  /// Parameters and buffers: what a checkpoint holds.
  std::vector<NamedTensor> state() const;
  /// Moves or converts every parameter and buffer. Handles taken before (an optimizer's) keep the old tensors, so call this first.
  void to(Device device);
  void to(DType dtype);

 protected:
  /// Makes `slot` a trainable tensor with these values.
  void add_parameter(const std::string& name, Tensor& slot, const Tensor& value, bool decay);
  /// Makes `slot` a tensor of fixed values that is saved, loaded and moved with the parameters.
  void add_buffer(const std::string& name, Tensor& slot, const Tensor& value);
  void add_child(const std::string& name, Module& child);

 private:
  struct Slot {
    std::string name;
    Tensor* tensor;
    bool decay, trained;
  };
  void visit(const std::string& prefix, const std::function<void(const std::string& name, const Slot&)>& see) const;
  void replace(const std::function<Tensor(const Tensor&)>& make);
  std::vector<Slot> slots_;
  std::vector<std::pair<std::string, Module*>> children_;
};

/// Normal numbers of standard deviation `sigma`, f32 on the CPU, drawn from rng in memory order.
Tensor normal_tensor(const Shape& shape, double sigma, Rng& rng);

}  // namespace flare
