#include "core/gemm.h"

#include <cblas.h>

#include <algorithm>
#include <atomic>

#include "core/allocator.h"
#include "core/gemm_check.h"
#include "core/parallel.h"

namespace flare {
namespace {

std::atomic<bool> tf32_on{false};

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
/// A piece size of at most about `largest` (a multiple of `step`) that cuts n into pieces of nearly equal size.
int64_t even_piece(int64_t n, int64_t largest, int64_t step) {
  return n <= largest ? n : std::min(n, round_up(ceil_div(n, ceil_div(n, largest)), step));
}

constexpr double kTaskFlops = 0.5e6;  // below this, waking a second core costs more than it brings

/// How a product is cut into tasks. A function of the shape alone, never of the number of threads: that is what keeps the
/// bits the same on any machine width.
struct Tiling {
  int64_t rows, cols, depth;  // of one task; depth < k splits the sum, whose parts are then added in order
};
Tiling choose_tiling(int64_t m, int64_t n, int64_t k, int64_t batch) {
  const double work = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k) * static_cast<double>(batch);
  const double task = std::clamp(work / 32, kTaskFlops, 16e6);
  Tiling t{m, n, k};
  t.cols = even_piece(n, 1024, 16);
  // A task packs its piece of B anew; with few rows that costs more than the arithmetic, so large products keep 256.
  const int64_t fewest = work >= 1e9 ? 256 : 32;
  const auto wanted = static_cast<int64_t>(task / (2.0 * static_cast<double>(t.cols) * static_cast<double>(k)));
  t.rows = even_piece(m, std::max(fewest, round_up(wanted, 16)), 16);
  const int64_t n_tiles = ceil_div(m, t.rows) * ceil_div(n, t.cols) * batch;
  if (n_tiles < 8 && k >= 1024) {
    // Weight gradients: small result, long sum. At most 32 parts of at least 256, and at most 4 Mi partial results.
    const int64_t by_memory = (int64_t{1} << 22) / (m * n * batch);
    const int64_t by_work = static_cast<int64_t>(work / task) / n_tiles;
    const int64_t parts = std::clamp<int64_t>(std::min({k / 256, by_memory, by_work}), 1, 32);
    t.depth = std::min(k, round_up(ceil_div(k, parts), 16));
  }
  return t;
}

void blas(bool ta, bool tb, int64_t m, int64_t n, int64_t k, float alpha, const float* a, int64_t lda, const float* b, int64_t ldb,
          float beta, float* c, int64_t ldc) {
  cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, static_cast<blasint>(m),
              static_cast<blasint>(n), static_cast<blasint>(k), alpha, a, static_cast<blasint>(lda), b, static_cast<blasint>(ldb),
              beta, c, static_cast<blasint>(ldc));
}
void blas(bool ta, bool tb, int64_t m, int64_t n, int64_t k, double alpha, const double* a, int64_t lda, const double* b,
          int64_t ldb, double beta, double* c, int64_t ldc) {
  cblas_dgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, static_cast<blasint>(m),
              static_cast<blasint>(n), static_cast<blasint>(k), alpha, a, static_cast<blasint>(lda), b, static_cast<blasint>(ldb),
              beta, c, static_cast<blasint>(ldc));
}

/// The product in a type that OpenBLAS knows.
template <class T> void run(const GemmArgs& g) {
  // Our own loop spreads the tasks; OpenBLAS's threads would split by their number and change the bits.
  static const bool single_threaded = [] {
    openblas_set_num_threads(1);
    return true;
  }();
  static_cast<void>(single_threaded);
  const auto* a = static_cast<const T*>(g.a);
  const auto* b = static_cast<const T*>(g.b);
  auto* c = static_cast<T*>(g.c);
  const auto alpha = static_cast<T>(g.alpha), beta = static_cast<T>(g.beta);
  const int64_t m = g.m, n = g.n, k = g.k;
  if (k == 0) {
    for (int64_t i = 0; i < g.batch; ++i)
      for (int64_t r = 0; r < m; ++r)
        for (int64_t j = 0; j < n; ++j) {
          T& x = c[i * g.stride_c + r * g.ldc + j];
          x = beta == T(0) ? T(0) : beta * x;
        }
    return;
  }

  const Tiling tile = choose_tiling(m, n, k, g.batch);
  const int64_t row_tiles = ceil_div(m, tile.rows), col_tiles = ceil_div(n, tile.cols), parts = ceil_div(k, tile.depth);
  const int64_t tasks = g.batch * row_tiles * col_tiles * parts;
  const double task_flops = 2.0 * static_cast<double>(tile.rows) * static_cast<double>(tile.cols) * static_cast<double>(tile.depth);
  const auto grain = static_cast<int64_t>(std::clamp(kTaskFlops / task_flops, 1.0, static_cast<double>(tasks)));
  const int64_t part_size = g.batch * m * n;
  const HostScratch<T> partial(parts > 1 ? parts * part_size : 0);

  parallel_for(tasks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task % parts, tile_index = task / parts % (row_tiles * col_tiles),
                    i = task / parts / (row_tiles * col_tiles);
      const int64_t r0 = tile_index / col_tiles * tile.rows, j0 = tile_index % col_tiles * tile.cols, k0 = part * tile.depth;
      const int64_t rows = std::min(tile.rows, m - r0), cols = std::min(tile.cols, n - j0), depth = std::min(tile.depth, k - k0);
      const T* a_tile = a + i * g.stride_a + (g.transpose_a ? k0 * g.lda + r0 : r0 * g.lda + k0);
      const T* b_tile = b + i * g.stride_b + (g.transpose_b ? j0 * g.ldb + k0 : k0 * g.ldb + j0);
      if (parts == 1)
        blas(g.transpose_a, g.transpose_b, rows, cols, depth, alpha, a_tile, g.lda, b_tile, g.ldb, beta,
             c + i * g.stride_c + r0 * g.ldc + j0, g.ldc);
      else
        blas(g.transpose_a, g.transpose_b, rows, cols, depth, T(1), a_tile, g.lda, b_tile, g.ldb, T(0),
             partial.data() + part * part_size + (i * m + r0) * n + j0, n);
    }
  });
  if (parts == 1) return;

  parallel_for(g.batch * m, std::max<int64_t>(1, (1 << 16) / (n * parts)), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* sum = partial.data() + row * n;  // part 0 becomes the sum
      for (int64_t part = 1; part < parts; ++part) {
        const T* x = partial.data() + part * part_size + row * n;
        for (int64_t j = 0; j < n; ++j) sum[j] += x[j];
      }
      T* y = c + row / m * g.stride_c + row % m * g.ldc;
      if (beta == T(0))
        for (int64_t j = 0; j < n; ++j) y[j] = alpha * sum[j];
      else
        for (int64_t j = 0; j < n; ++j) y[j] = alpha * sum[j] + beta * y[j];
    }
  });
}

/// Calls f(row of the strided matrix, row of the packed one) for each row of each batch entry.
template <class F> void for_each_row(int64_t batch, int64_t rows, int64_t cols, int64_t ld, int64_t stride, const F& f) {
  parallel_for(batch * rows, std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(cols, 1)), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) f(r / rows * stride + r % rows * ld, r * cols);
  });
}
void widen(const void* source, float* out, int64_t batch, int64_t rows, int64_t cols, int64_t ld, int64_t stride) {
  for_each_row(batch, rows, cols, ld, stride, [&](int64_t from, int64_t to) {
    const bf16* x = static_cast<const bf16*>(source) + from;
    float* y = out + to;
    for (int64_t j = 0; j < cols; ++j) y[j] = static_cast<float>(x[j]);
  });
}

/// bf16 operands: widened to packed f32 copies, multiplied, and rounded once at the end.
void run_bf16(const GemmArgs& g) {
  const int64_t a_rows = g.transpose_a ? g.k : g.m, a_cols = g.transpose_a ? g.m : g.k;
  const int64_t b_rows = g.transpose_b ? g.n : g.k, b_cols = g.transpose_b ? g.k : g.n;
  const int64_t a_batch = g.stride_a == 0 ? 1 : g.batch, b_batch = g.stride_b == 0 ? 1 : g.batch;
  const HostScratch<float> a(a_batch * a_rows * a_cols), b(b_batch * b_rows * b_cols);
  widen(g.a, a.data(), a_batch, a_rows, a_cols, g.lda, g.stride_a);
  widen(g.b, b.data(), b_batch, b_rows, b_cols, g.ldb, g.stride_b);

  GemmArgs h = g;
  h.dtype = h.out_dtype = DType::f32;
  h.a = a.data(), h.lda = std::max<int64_t>(1, a_cols), h.stride_a = a_batch == 1 ? 0 : a_rows * a_cols;
  h.b = b.data(), h.ldb = std::max<int64_t>(1, b_cols), h.stride_b = b_batch == 1 ? 0 : b_rows * b_cols;
  if (g.out_dtype == DType::f32) {
    run<float>(h);
    return;
  }

  const HostScratch<float> c(g.batch * g.m * g.n);
  if (g.beta != 0) widen(g.c, c.data(), g.batch, g.m, g.n, g.ldc, g.stride_c);
  h.c = c.data(), h.ldc = g.n, h.stride_c = g.m * g.n;
  run<float>(h);
  for_each_row(g.batch, g.m, g.n, g.ldc, g.stride_c, [&](int64_t to, int64_t from) {
    bf16* y = static_cast<bf16*>(g.c) + to;
    const float* x = c.data() + from;
    for (int64_t j = 0; j < g.n; ++j) y[j] = bf16(x[j]);
  });
}

}  // namespace

void set_tf32(bool on) { tf32_on = on; }
bool tf32_enabled() { return tf32_on; }

void gemm_cpu(const GemmArgs& args) {
  check_gemm(args);
  if (args.m == 0 || args.n == 0 || args.batch == 0) return;
  switch (args.dtype) {
    case DType::f64: run<double>(args); break;
    case DType::f32: run<float>(args); break;
    default: run_bf16(args);
  }
}

}  // namespace flare
