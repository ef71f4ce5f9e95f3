#pragma once
/// Terms and slopes of the losses: small functors for the reductions and fills of ops/kernels/reduce.cuh.
#include <cstdint>

#include "ops/kernels/reduce.cuh"

namespace flare {

struct WriteTimes {
  float* y;
  float scale;
  __device__ void operator()(int64_t row, const float (&sums)[1]) const { y[row] = sums[0] * scale; }
};
struct PlainTerm {
  const float* x;
  __device__ void operator()(int64_t, int64_t i, float (&sums)[1]) const { sums[0] += x[i]; }
};

/// lse[b] and loss[b] of each row; a label out of range gives loss 0. A warp a row.
template <class T>
__global__ void cross_entropy_rows_kernel(const T* x, const int64_t* labels, float* lse, float* loss, int64_t rows, int64_t k) {
  after_previous();
  const int64_t b = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  if (b >= rows) return;
  const int lane = threadIdx.x % kWarp;
  const T* row = x + b * k;
  float top = -INFINITY, total = 0;
  for (int64_t i = lane; i < k; i += kWarp) top = fmaxf(top, static_cast<float>(row[i]));
  top = warp_max(top);
  for (int64_t i = lane; i < k; i += kWarp) total += expf(static_cast<float>(row[i]) - top);
  total = warp_sum(total);
  if (lane != 0) return;
  const int64_t label = labels[b];
  lse[b] = top + logf(total);
  loss[b] = label >= 0 && label < k ? lse[b] - static_cast<float>(row[label]) : 0.0f;
}

template <class T>
void cross_entropy_cuda(const char* name, const T* x, const int64_t* labels, float* y, float* lse, int64_t rows, int64_t k,
                        Stream& stream) {
  const Tensor loss = Tensor::empty({rows}, DType::f32, Device::cuda);
  launch_early(name, cross_entropy_rows_kernel<T>, cover(rows * kWarp), stream, x, labels, lse, loss.data<float>(), rows, k);
  reduce_rows<1>(name, 1, rows, PlainTerm{loss.data<float>()}, WriteTimes{y, 1.0f / static_cast<float>(rows)}, stream);
}

template <class T> struct CrossEntropySlope {
  const T* x;
  const int64_t* labels;
  const float *lse, *gy;
  int64_t k;
  float inverse;
  template <int kVec> __device__ void operator()(int64_t b, int64_t, int64_t i, float (&v)[kVec]) const {
    const int64_t label = labels[b];
    const float scale = label >= 0 && label < k ? *gy * inverse : 0.0f, shift = lse[b];
    load_vec<kVec>(x + b * k + i, v);
    for (int j = 0; j < kVec; ++j) v[j] = scale != 0 ? scale * (expf(v[j] - shift) - (i + j == label ? 1.0f : 0.0f)) : 0.0f;
  }
};

template <class T> struct BceTerm {
  const T* x;
  const int64_t* labels;
  __device__ void operator()(int64_t, int64_t i, float (&sums)[1]) const {
    const float v = static_cast<float>(x[i]);
    if (labels[i] == 0 || labels[i] == 1) sums[0] += fmaxf(v, 0.0f) - (labels[i] == 1 ? v : 0.0f) + log1pf(expf(-fabsf(v)));
  }
};
template <class T> struct BceSlope {
  const T* x;
  const int64_t* labels;
  const float* gy;
  float inverse;
  template <int kVec> __device__ void operator()(int64_t, int64_t, int64_t i, float (&v)[kVec]) const {
    load_vec<kVec>(x + i, v);
    for (int j = 0; j < kVec; ++j) {
      const int64_t label = labels[i + j];
      v[j] = label == 0 || label == 1 ? *gy * inverse * (1 / (1 + expf(-v[j])) - static_cast<float>(label)) : 0.0f;
    }
  }
};

/// One block; a thread takes every 512th row. Integers, so the order does not matter.
template <class T> __global__ void correct_count_kernel(const T* x, const int64_t* labels, int64_t* y, int64_t rows, int64_t k) {
  after_previous();
  __shared__ long long of_thread[512];
  long long correct = 0;
  for (int64_t b = threadIdx.x; b < rows; b += blockDim.x) {
    int64_t guess = -1;
    if (k == 1) {
      const float v = static_cast<float>(x[b]);
      guess = v > 0 ? 1 : v == v ? 0 : -1;
    } else {
      float best = 0;
      for (int64_t i = 0; i < k; ++i) {
        const float v = static_cast<float>(x[b * k + i]);
        if (v == v && (guess < 0 || v > best)) {
          best = v;
          guess = i;
        }
      }
    }
    correct += guess >= 0 && guess == labels[b];
  }
  of_thread[threadIdx.x] = correct;
  for (unsigned step = blockDim.x / 2; step > 0; step /= 2) {
    __syncthreads();
    if (threadIdx.x < step) of_thread[threadIdx.x] += of_thread[threadIdx.x + step];
  }
  if (threadIdx.x == 0) *y = of_thread[0];
}

template <class T> struct SquaredError {
  const T *p, *t;
  __device__ void operator()(int64_t, int64_t i, float (&sums)[1]) const {
    const float d = static_cast<float>(p[i]) - static_cast<float>(t[i]);
    sums[0] += d * d;
  }
};
template <class T> struct SquaredErrorSlope {
  const T *p, *t;
  const float* gy;
  float scale;
  template <int kVec> __device__ void operator()(int64_t, int64_t, int64_t i, float (&v)[kVec]) const {
    float u[kVec];
    load_vec<kVec>(p + i, v);
    load_vec<kVec>(t + i, u);
    for (int j = 0; j < kVec; ++j) v[j] = *gy * scale * (v[j] - u[j]);
  }
};

/// Σ (p - t)² and Σ t² over the elements of sample b whose token is not masked; a token has `width` elements.
template <class T> struct RelativeTerm {
  const T *p, *t;
  const uint8_t* mask;
  int64_t n, width;
  __device__ void operator()(int64_t b, int64_t i, float (&sums)[2]) const {
    if (mask && !mask[(b * n + i) / width]) return;
    const float target = static_cast<float>(t[b * n + i]), d = static_cast<float>(p[b * n + i]) - target;
    sums[0] += d * d;
    sums[1] += target * target;
  }
};
struct WriteNorms {
  float *error, *size, *ratio;
  __device__ void operator()(int64_t b, const float (&sums)[2]) const {
    error[b] = sqrtf(sums[0]);
    size[b] = sqrtf(sums[1]);
    ratio[b] = sums[1] > 0 ? error[b] / size[b] : 0.0f;
  }
};
template <bool kOfTarget, class T> struct RelativeSlope {
  const T *p, *t;
  const uint8_t* mask;
  const float *error, *size, *gy;
  int64_t n, width;
  float inverse;
  template <int kVec> __device__ void operator()(int64_t b, int64_t, int64_t i, float (&v)[kVec]) const {
    float u[kVec];
    load_vec<kVec>(p + b * n + i, v);
    load_vec<kVec>(t + b * n + i, u);
    const float e = error[b], s = size[b], g = *gy * inverse;
    for (int j = 0; j < kVec; ++j) {
      const bool counts = s > 0 && (!mask || mask[(b * n + i + j) / width]);
      const float of_error = e > 0 ? (v[j] - u[j]) / (e * s) : 0.0f;
      v[j] = !counts ? 0.0f : g * (kOfTarget ? -of_error - u[j] * (e / s) / (s * s) : of_error);
    }
  }
};

}  // namespace flare
