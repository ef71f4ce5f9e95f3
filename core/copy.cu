/// fill, copy, accumulate for any strides and dtypes: the only arithmetic core knows.
#include <cstring>

#include "core/parallel.h"
#include "core/rehearsal.h"
#include "core/tensor.h"
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#endif

namespace flare {
namespace {

/// Shape and strides of up to two operands with adjacent axes merged where both allow it, small enough to pass by value.
struct Layout {
  int n = 0;
  int64_t extent[kMaxDims] = {}, a[kMaxDims] = {}, b[kMaxDims] = {};
};

Layout merged(const Shape& shape, const Shape& a, const Shape& b) {
  Layout out;
  for (int i = 0; i < shape.ndim(); ++i) {
    if (shape[i] == 1) continue;
    const int last = out.n - 1;
    if (out.n && out.a[last] == a[i] * shape[i] && out.b[last] == b[i] * shape[i]) {
      out.extent[last] *= shape[i];
      out.a[last] = a[i];
      out.b[last] = b[i];
    } else {
      out.extent[out.n] = shape[i];
      out.a[out.n] = a[i];
      out.b[out.n++] = b[i];
    }
  }
  return out;
}

/// Both operands are packed and in the same order.
bool is_packed(const Layout& l) { return l.n == 0 || (l.n == 1 && l.a[0] == 1 && l.b[0] == 1); }

FLARE_HD void offsets(const Layout& l, int64_t i, int64_t& oa, int64_t& ob) {
  oa = ob = 0;
  for (int axis = l.n - 1; axis > 0; --axis) {
    const int64_t q = i / l.extent[axis], r = i - q * l.extent[axis];
    oa += r * l.a[axis];
    ob += r * l.b[axis];
    i = q;
  }
  if (l.n) {
    oa += i * l.a[0];
    ob += i * l.b[0];
  }
}

template <class To, class From> FLARE_HD To convert(From x) {
  if constexpr (std::is_same_v<To, From>)
    return x;
  else if constexpr (std::is_same_v<To, bf16>)
    return bf16(static_cast<float>(x));
  else if constexpr (std::is_same_v<From, bf16>)
    return static_cast<To>(static_cast<float>(x));
  else
    return static_cast<To>(x);
}

constexpr int64_t kGrain = 1 << 15;

template <class To, class From> void copy_cpu(const From* src, To* dst, const Layout& l, int64_t n) {
  const int64_t inner = l.n ? l.extent[l.n - 1] : 1, sa = l.n ? l.a[l.n - 1] : 1, sb = l.n ? l.b[l.n - 1] : 1;
  if (l.n <= 1 && sa == 1 && sb == 1) {
    parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
      if constexpr (std::is_same_v<To, From>)
        std::memcpy(dst + begin, src + begin, static_cast<size_t>(end - begin) * sizeof(To));
      else
        for (int64_t i = begin; i < end; ++i) dst[i] = convert<To>(src[i]);
    });
    return;
  }
  parallel_for(n / inner, std::max<int64_t>(1, kGrain / inner), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      int64_t oa, ob;
      offsets(l, row * inner, oa, ob);
      for (int64_t i = 0; i < inner; ++i) dst[ob + i * sb] = convert<To>(src[oa + i * sa]);
    }
  });
}

#if defined(FLARE_CUDA)
template <class T> __global__ void fill_kernel(T* dst, T value, Layout l, int64_t n) {
  after_previous();
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= n) return;
  int64_t oa, ob;
  offsets(l, i, oa, ob);
  dst[oa] = value;
}

template <class To, class From> __global__ void copy_kernel(const From* src, To* dst, Layout l, int64_t n) {
  after_previous();
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= n) return;
  int64_t oa, ob;
  offsets(l, i, oa, ob);
  dst[ob] = convert<To>(src[oa]);
}

template <class T> __global__ void accumulate_kernel(const T* src, T* dst, Layout l, int64_t n) {
  after_previous();
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= n) return;
  int64_t oa, ob;
  offsets(l, i, oa, ob);
  dst[ob] = convert<T>(static_cast<acc_t<T>>(dst[ob]) + static_cast<acc_t<T>>(src[oa]));
}

/// a + b, packed; one thread adds kVec neighbours. out may be a.
template <int kVec, class T> __global__ void add_kernel(const T* a, const T* b, T* out, int64_t n) {
  after_previous();
  struct alignas(sizeof(T) * kVec) Pack {
    T v[kVec];
  };
  const int64_t i = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) * kVec;
  if (i >= n) return;
  Pack x = *reinterpret_cast<const Pack*>(a + i);
  const Pack y = *reinterpret_cast<const Pack*>(b + i);
#pragma unroll
  for (int j = 0; j < kVec; ++j) x.v[j] = convert<T>(static_cast<acc_t<T>>(x.v[j]) + static_cast<acc_t<T>>(y.v[j]));
  *reinterpret_cast<Pack*>(out + i) = x;
}

template <class T> void add_packed(const T* a, const T* b, T* out, int64_t n) {
  constexpr int kVec = 16 / static_cast<int>(sizeof(T));
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const Stream& stream = compute_stream(Device::cuda);
  if (n % kVec == 0 && aligned(a) && aligned(b) && aligned(out))
    launch_early("accumulate", add_kernel<kVec, T>, cover(n / kVec), stream, a, b, out, n);
  else
    launch_early("accumulate", add_kernel<1, T>, cover(n), stream, a, b, out, n);
}

/// Packed bytes between host and device on the compute stream. Copies from pageable host memory return once staged; copies to
/// the host wait, since the caller reads the result next.
void transfer(const Tensor& src, const Tensor& dst) {
  Stream& stream = compute_stream(Device::cuda);
  const cudaMemcpyKind kind = src.device() == Device::cpu ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToHost;
  cuda_check(cudaMemcpyAsync(dst.raw(), src.raw(), static_cast<size_t>(src.bytes()), kind, native(stream)),
             "copy between host and device");
  if (kind == cudaMemcpyDeviceToHost) stream.synchronize();
}
#endif

void wrote(const Tensor& dst) { ++dst.storage()->version; }

}  // namespace

void fill(const Tensor& dst, double value) {
  const int64_t n = dst.numel();
  wrote(dst);
  if (n == 0 || is_rehearsed(dst.raw())) return;
  const Layout l = merged(dst.shape(), dst.strides(), dst.strides());
  dispatch_any(dst.dtype(), [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T v = convert<T>(value);
    T* data = dst.data<T>();
    if (dst.device() == Device::cpu) {
      if (l.n <= 1 && (l.n == 0 || l.a[0] == 1)) {
        parallel_for(n, kGrain, [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, v); });
      } else {
        for (int64_t i = 0; i < n; ++i) {
          int64_t oa, ob;
          offsets(l, i, oa, ob);
          data[oa] = v;
        }
      }
    } else {
#if defined(FLARE_CUDA)
      launch_early("fill", fill_kernel<T>, cover(n), compute_stream(Device::cuda), data, v, l, n);
#endif
    }
  });
}

void copy(const Tensor& src, const Tensor& dst) {
  check(src.shape() == dst.shape(), "copy: shapes ", src.shape(), " and ", dst.shape(), " differ");
  const int64_t n = src.numel();
  wrote(dst);
  if (n == 0 || is_rehearsed(src.raw()) || is_rehearsed(dst.raw())) return;
  if (src.device() != dst.device()) {
#if defined(FLARE_CUDA)
    // Pack and convert on the source side, scatter on the destination side, so that the bytes cross once.
    const Tensor packed = contiguous(cast_to(src, dst.dtype()));
    if (dst.is_contiguous()) {
      transfer(packed, dst);
      return;
    }
    const Tensor landed = Tensor::empty(dst.shape(), dst.dtype(), dst.device());
    transfer(packed, landed);
    copy(landed, dst);
    return;
#else
    throw DeviceError("copy: this program was built without CUDA");
#endif
  }
  const Layout l = merged(src.shape(), src.strides(), dst.strides());
  dispatch_any(src.dtype(), [&](auto from) {
    using From = typename decltype(from)::type;
    dispatch_any(dst.dtype(), [&](auto to) {
      using To = typename decltype(to)::type;
      if (src.device() == Device::cpu) {
        copy_cpu(src.data<From>(), dst.data<To>(), l, n);
      } else {
#if defined(FLARE_CUDA)
        if (std::is_same_v<From, To> && is_packed(l)) {
          mark_launch("copy");
          cuda_check(cudaMemcpyAsync(dst.raw(), src.raw(), static_cast<size_t>(n) * sizeof(To), cudaMemcpyDeviceToDevice,
                                     native(compute_stream(Device::cuda))),
                     "copy");
        } else {
          launch_early("copy", copy_kernel<To, From>, cover(n), compute_stream(Device::cuda), src.data<From>(), dst.data<To>(), l,
                       n);
        }
#endif
      }
    });
  });
}

void accumulate(const Tensor& src, const Tensor& dst) {
  check(src.shape() == dst.shape() && src.dtype() == dst.dtype() && src.device() == dst.device(), "accumulate: ", src.dtype(), " ",
        src.shape(), " into ", dst.dtype(), " ", dst.shape());
  const int64_t n = src.numel();
  wrote(dst);
  if (n == 0 || is_rehearsed(dst.raw())) return;
  const Layout l = merged(src.shape(), src.strides(), dst.strides());
  dispatch_float(src.dtype(), "accumulate", [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* from = src.data<T>();
    T* to = dst.data<T>();
    if (src.device() == Device::cpu) {
      const bool packed = is_packed(l);
      parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          int64_t oa = i, ob = i;
          if (!packed) offsets(l, i, oa, ob);
          to[ob] = convert<T>(static_cast<acc_t<T>>(to[ob]) + static_cast<acc_t<T>>(from[oa]));
        }
      });
    } else {
#if defined(FLARE_CUDA)
      if constexpr (std::is_same_v<T, double>)
        throw ShapeError("accumulate: f64 lives on the CPU only");
      else if (is_packed(l))
        add_packed<T>(to, from, to, n);
      else
        launch_early("accumulate", accumulate_kernel<T>, cover(n), compute_stream(Device::cuda), from, to, l, n);
#endif
    }
  });
}

Tensor sum_of(const Tensor& a, const Tensor& b) {
  if (a.device() == Device::cuda && a.is_contiguous() && b.is_contiguous() && a.shape() == b.shape() && a.dtype() == b.dtype() &&
      b.device() == Device::cuda && a.numel() > 0) {
    const Tensor out = Tensor::empty(a.shape(), a.dtype(), a.device());
    if (is_rehearsed(out.raw())) return out;
#if defined(FLARE_CUDA)
    dispatch_float_cuda(a.dtype(), "sum_of", [&](auto tag) {
      using T = typename decltype(tag)::type;
      add_packed<T>(a.data<T>(), b.data<T>(), out.data<T>(), a.numel());
    });
#endif
    return out;
  }
  const Tensor out = clone(a);
  accumulate(b, out);
  return out;
}

}  // namespace flare
