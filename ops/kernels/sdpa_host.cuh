#pragma once
/// Host side shared by the attention passes on the matrix units: operands, limits, widths.
#include "core/launch.cuh"
#include "ops/kernels/sdpa_prepare.cuh"

namespace flare {

/// Collects the operands of a pass. bf16 rows that are aligned to 16 bytes are used in place; others, and f32, are copied into
/// aligned bf16 parts by one launch.
template <class T> class SdpaOperands {
 public:
  SdpaOperands(int64_t B, int64_t H, int64_t D) : B_(B), H_(H), D_(D), W_(divide_up(D, 8) * 8) {
    split_.H = H, split_.D = static_cast<int>(D), split_.W = static_cast<int>(W_);
  }
  OperandRows add(const Rows<const T>& r, int64_t n) {
    const bool even = D_ % 8 == 0 && r.batch % 8 == 0 && r.head % 8 == 0 && r.row % 8 == 0;
    if constexpr (sizeof(T) == 2)
      if (even && reinterpret_cast<uintptr_t>(r.data) % 16 == 0) return {r.data, r.batch, r.head, r.row, 0};
    const int64_t batches = r.batch == 0 ? 1 : B_, part = batches * H_ * n * W_;
    copies_[count_] = Tensor::empty(Shape{kOperandParts<T> * part}, DType::bf16, Device::cuda);
    bf16* to = copies_[count_].template data<bf16>();
    split_.from[count_] = r, split_.to[count_] = to, split_.n[count_] = n, split_.B[count_] = batches, split_.part[count_] = part;
    most_ = std::max(most_, batches * H_ * n * (W_ / 8)), ++count_;
    return {to, r.batch == 0 ? 0 : H_ * n * W_, n * W_, W_, part};
  }
  void run(Stream& stream) {
    if (count_ == 0) return;
    LaunchShape shape = cover(most_);
    shape.grid.y = static_cast<unsigned>(count_);
    launch("sdpa operands", sdpa_split_kernel<T>, shape, stream, split_);
  }

 private:
  int64_t B_, H_, D_, W_, most_ = 0;
  int count_ = 0;
  SdpaSplitArgs<T> split_{};
  Tensor copies_[4];
};

/// Shared memory that a block may use on the current device.
inline int64_t shared_bytes_limit() {
  static const int64_t limit = [] {
    int device = 0, bytes = 0, major = 0;
    cuda_check(cudaGetDevice(&device), "sdpa: device");
    cuda_check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "sdpa: shared memory");
    cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "sdpa: compute capability");
    return major >= 8 ? static_cast<int64_t>(bytes) - 1024 : 0;
  }();
  return limit;
}

inline LaunchShape sdpa_grid(int64_t blocks, int64_t shared_bytes) {
  check(blocks < (int64_t{1} << 31), "sdpa: ", blocks, " blocks are more than a grid holds");
  return {dim3(static_cast<unsigned>(blocks)), dim3(128), shared_bytes};
}

/// Calls f(integral_constant<int, DP>) with the padded width of D for the matrix units.
template <class F> bool dispatch_matrix_width(int64_t D, F&& f) {
  if (D <= 16) return f(std::integral_constant<int, 16>{});
  if (D <= 32) return f(std::integral_constant<int, 32>{});
  if (D <= 64) return f(std::integral_constant<int, 64>{});
  return D <= 128 && f(std::integral_constant<int, 128>{});
}

}  // namespace flare
