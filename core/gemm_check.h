#pragma once
#include <algorithm>
#include <limits>

#include "core/gemm.h"

namespace flare {

/// Refuses a product that BLAS would reject or answer with nonsense: both libraries take 32-bit extents and row strides, and
/// report a bad one late (cuBLAS) or only on stderr (OpenBLAS).
inline void check_gemm(const GemmArgs& g) {
  check(g.m >= 0 && g.n >= 0 && g.k >= 0 && g.batch >= 0, "gemm: negative extent: m=", g.m, " n=", g.n, " k=", g.k,
        " batch=", g.batch);
  constexpr int64_t kMax = std::numeric_limits<int32_t>::max();
  check(std::max({g.m, g.n, g.k, g.batch, g.lda, g.ldb, g.ldc}) <= kMax, "gemm: an extent of m=", g.m, " n=", g.n, " k=", g.k,
        " batch=", g.batch, " or a row stride (", g.lda, ",", g.ldb, ",", g.ldc, ") is above ", kMax);
  check(g.lda >= std::max<int64_t>(1, g.transpose_a ? g.m : g.k), "gemm: row stride ", g.lda, " of A is below its row length");
  check(g.ldb >= std::max<int64_t>(1, g.transpose_b ? g.k : g.n), "gemm: row stride ", g.ldb, " of B is below its row length");
  check(g.ldc >= std::max<int64_t>(1, g.n), "gemm: row stride ", g.ldc, " of C is below its row length ", g.n);
  check(g.batch <= 1 || g.stride_c != 0, "gemm: the results of ", g.batch, " products would overlap (stride_c 0)");
  check(is_float(g.dtype), "gemm: needs a floating dtype, got ", g.dtype);
  check(g.out_dtype == g.dtype || (g.dtype == DType::bf16 && g.out_dtype == DType::f32), "gemm: ", g.dtype,
        " operands cannot give a result of ", g.out_dtype);
}

}  // namespace flare
