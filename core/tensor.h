#pragma once
#include <memory>
#include <vector>

#include "core/device.h"
#include "core/dtype.h"
#include "core/shape.h"

namespace flare {

/// A block of bytes on one device, shared by the tensors that view it. `version` counts in-place writes, so that the tape can
/// tell that a tensor it saved has changed.
class Tensor;
struct Storage {
  Storage(Device device, int64_t bytes);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  void* data = nullptr;
  int64_t bytes = 0;
  Device device;
  uint64_t version = 0;
  std::unique_ptr<Tensor> rounded;  // see attach_rounded
  uint64_t rounded_version = 0;
};

struct TapeRecord;  // autograd/node.h: gradient and producer; core never looks inside

/// A strided view of a Storage: a cheap handle, shared by copying. The arithmetic lives in ops/.
class Tensor {
 public:
  Tensor() = default;  // undefined
  /// Uninitialised, contiguous.
  static Tensor empty(const Shape& shape, DType dtype, Device device = Device::cpu);
  static Tensor full(const Shape& shape, double value, DType dtype, Device device = Device::cpu);
  static Tensor zeros(const Shape& shape, DType dtype, Device device = Device::cpu) { return full(shape, 0, dtype, device); }
  /// Copies values into a new tensor of dtype_of<T>.
  template <class T> static Tensor from(const std::vector<T>& values, const Shape& shape, Device device = Device::cpu) {
    return from_bytes(values.data(), static_cast<int64_t>(values.size()), shape, dtype_of<T>, device);
  }
  static Tensor from_bytes(const void* host, int64_t count, const Shape& shape, DType dtype, Device device);

  bool defined() const { return impl_ != nullptr; }
  explicit operator bool() const { return defined(); }
  const Shape& shape() const { return impl_->shape; }
  const Shape& strides() const { return impl_->strides; }  // in elements
  int64_t size(int axis) const { return impl_->shape[axis]; }
  int ndim() const { return impl_->shape.ndim(); }
  int64_t numel() const { return impl_->shape.numel(); }
  int64_t bytes() const { return numel() * size_of(dtype()); }
  DType dtype() const { return impl_->dtype; }
  Device device() const { return impl_->storage->device; }
  bool is_contiguous() const;
  bool same_storage(const Tensor& other) const { return defined() && other.defined() && impl_->storage == other.impl_->storage; }
  const std::shared_ptr<Storage>& storage() const { return impl_->storage; }
  /// Whether no other tensor shares these bytes: they may then be kept or overwritten without a copy.
  bool is_sole_owner() const { return impl_.use_count() == 1 && impl_->storage.use_count() == 1; }

  /// Address of element 0; data<T>() checks the dtype.
  void* raw() const { return static_cast<char*>(impl_->storage->data) + impl_->offset * size_of(impl_->dtype); }
  template <class T> T* data() const {
    check(dtype_of<T> == dtype(), "tensor: data<", dtype_of<T>, "> of a ", dtype(), " tensor");
    return static_cast<T*>(raw());
  }

  /// A view of the same storage; offset in elements from this tensor's element 0. Not recorded on the tape.
  Tensor view(const Shape& shape, const Shape& strides, int64_t offset = 0) const;
  /// A view of a contiguous tensor with another shape of equal numel. Not recorded on the tape.
  Tensor viewed_as(const Shape& shape) const;
  /// The same storage without tape record.
  Tensor detach() const;
  /// A contiguous tensor over the bytes of this one's storage from byte `offset` on, which must be a multiple of the dtype's size.
  Tensor reinterpreted(const Shape& shape, DType dtype, int64_t offset) const;

  /// Element i (row-major logical index) as double, or all of them. Synchronises with the device; for tests, logs and reports.
  double item(int64_t i = 0) const;
  std::vector<double> to_vector() const;

  const std::shared_ptr<TapeRecord>& tape() const { return impl_->tape; }
  void set_tape(std::shared_ptr<TapeRecord> record) const { impl_->tape = std::move(record); }
  const void* id() const { return impl_.get(); }

 private:
  struct Impl {
    std::shared_ptr<Storage> storage;
    Shape shape, strides;
    int64_t offset = 0;
    DType dtype = DType::f32;
    std::shared_ptr<TapeRecord> tape;
  };
  std::shared_ptr<Impl> impl_;
};

// core/copy.cu: the only arithmetic of core. All take any strides; none is recorded on the tape.
void fill(const Tensor& dst, double value);
/// dst[i] = src[i], converting dtype and crossing devices. ShapeError unless the shapes agree.
void copy(const Tensor& src, const Tensor& dst);
/// dst[i] += src[i]; same shape, dtype and device.
void accumulate(const Tensor& src, const Tensor& dst);
/// a + b in a new tensor; same shape, dtype and device.
Tensor sum_of(const Tensor& a, const Tensor& b);
/// The tensor itself if contiguous, else a packed copy.
Tensor contiguous(const Tensor& x);
Tensor clone(const Tensor& x);
Tensor cast_to(const Tensor& x, DType dtype);      // x itself when it has that dtype; its rounded copy where one is attached
Tensor to_device(const Tensor& x, Device device);  // x itself when it is there

/// Gives an f32 tensor that owns its whole storage a bf16 copy of itself, of the same shape and packed, which cast_to() hands out
/// in place of converting again. It counts until the storage's next write; whoever writes both (an optimizer) attaches it anew. An
/// undefined copy takes it away.
void attach_rounded(const Tensor& x, const Tensor& rounded);
bool has_rounded(const Tensor& x);  // a copy is attached and counts

}  // namespace flare
