#include "core/tensor.h"

#include <cstring>

#include "core/allocator.h"

namespace flare {

Storage::Storage(Device device, int64_t bytes) : data(allocate_bytes(device, bytes)), bytes(bytes), device(device) {}
Storage::~Storage() { release_bytes(device, data, bytes); }

Tensor Tensor::empty(const Shape& shape, DType dtype, Device device) {
  const int64_t n = shape.numel();
  check(n <= INT64_MAX / size_of(dtype), "tensor: the size of ", shape, " overflows");
  Tensor t;
  t.impl_ = std::make_shared<Impl>();
  t.impl_->storage = std::make_shared<Storage>(device, n * size_of(dtype));
  t.impl_->shape = shape;
  t.impl_->strides = shape.strides();
  t.impl_->dtype = dtype;
  return t;
}

Tensor Tensor::full(const Shape& shape, double value, DType dtype, Device device) {
  Tensor t = empty(shape, dtype, device);
  fill(t, value);
  return t;
}

Tensor Tensor::from_bytes(const void* host, int64_t count, const Shape& shape, DType dtype, Device device) {
  check(count == shape.numel(), "tensor: ", count, " values do not fill shape ", shape);
  Tensor t = empty(shape, dtype, Device::cpu);
  if (count) std::memcpy(t.raw(), host, static_cast<size_t>(t.bytes()));
  return to_device(t, device);
}

bool Tensor::is_contiguous() const {
  int64_t step = 1;
  for (int i = ndim() - 1; i >= 0; --i) {
    if (impl_->shape[i] != 1 && impl_->strides[i] != step) return numel() == 0;
    step *= impl_->shape[i];
  }
  return true;
}

Tensor Tensor::view(const Shape& shape, const Shape& strides, int64_t offset) const {
  check(shape.ndim() == strides.ndim(), "view: shape ", shape, " and strides ", strides, " differ in length");
  int64_t first = impl_->offset + offset, last = first;
  bool has_elements = true;
  for (int i = 0; i < shape.ndim(); ++i) {
    if (shape[i] == 0) has_elements = false;
    (strides[i] >= 0 ? last : first) += (shape[i] - 1) * strides[i];
  }
  check(!has_elements || (first >= 0 && (last + 1) * size_of(dtype()) <= impl_->storage->bytes), "view: shape ", shape,
        " with strides ", strides, " and offset ", offset, " leaves the storage of ", impl_->storage->bytes, " bytes");
  Tensor t;
  t.impl_ = std::make_shared<Impl>(*impl_);
  t.impl_->shape = shape;
  t.impl_->strides = strides;
  t.impl_->offset += offset;
  t.impl_->tape = nullptr;
  return t;
}

Tensor Tensor::viewed_as(const Shape& shape) const {
  check(is_contiguous() && shape.numel() == numel(), "view: ", this->shape(), " cannot be viewed as ", shape);
  return view(shape, shape.strides());
}

Tensor Tensor::detach() const { return view(shape(), strides()); }

Tensor Tensor::reinterpreted(const Shape& shape, DType dtype, int64_t offset) const {
  check(offset >= 0 && offset % size_of(dtype) == 0 && offset + shape.numel() * size_of(dtype) <= impl_->storage->bytes,
        "reinterpreted: ", dtype, " ", shape, " at byte ", offset, " leaves the storage of ", impl_->storage->bytes, " bytes");
  Tensor t;
  t.impl_ = std::make_shared<Impl>(Impl{impl_->storage, shape, shape.strides(), offset / size_of(dtype), dtype, nullptr});
  return t;
}

std::vector<double> Tensor::to_vector() const {
  const Tensor host = contiguous(to_device(detach(), Device::cpu));
  std::vector<double> values(static_cast<size_t>(numel()));
  dispatch_any(dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* data = host.data<T>();
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(data[i]);
  });
  return values;
}

double Tensor::item(int64_t i) const {
  check(i >= 0 && i < numel(), "tensor: element ", i, " of ", shape());
  int64_t offset = 0, rest = i;
  for (int axis = ndim() - 1; axis >= 0; --axis) {
    offset += rest % size(axis) * strides()[axis];
    rest /= size(axis);
  }
  return view(Shape{1}, Shape{1}, offset).to_vector()[0];
}

Tensor contiguous(const Tensor& x) { return x.is_contiguous() ? x : clone(x); }

Tensor clone(const Tensor& x) {
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  copy(x, y);
  return y;
}

Tensor cast_to(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  if (dtype == DType::bf16 && x.dtype() == DType::f32 && has_rounded(x)) {
    const int64_t offset = static_cast<const float*>(x.raw()) - static_cast<const float*>(x.storage()->data);
    const Tensor& rounded = *x.storage()->rounded;
    return rounded.view(x.shape(), x.strides(), offset);
  }
  Tensor y = Tensor::empty(x.shape(), dtype, x.device());
  copy(x, y);
  return y;
}

void attach_rounded(const Tensor& x, const Tensor& rounded) {
  Storage& storage = *x.storage();
  if (!rounded) {
    storage.rounded.reset();
    return;
  }
  check(x.dtype() == DType::f32 && rounded.dtype() == DType::bf16 && rounded.shape() == x.shape() && rounded.is_contiguous() &&
            x.is_contiguous() && x.raw() == storage.data && x.device() == rounded.device(),
        "attach_rounded: ", rounded.dtype(), " ", rounded.shape(), " is no packed bf16 copy of ", x.dtype(), " ", x.shape());
  storage.rounded = std::make_unique<Tensor>(rounded.detach());
  storage.rounded_version = storage.version;
}

bool has_rounded(const Tensor& x) {
  const Storage& storage = *x.storage();
  return storage.rounded && storage.rounded_version == storage.version;
}

Tensor to_device(const Tensor& x, Device device) {
  if (x.device() == device) return x;
  Tensor y = Tensor::empty(x.shape(), x.dtype(), device);
  copy(x, y);
  return y;
}

}  // namespace flare
