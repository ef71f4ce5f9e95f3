#pragma once
/// The FLARE mixer of one sample and head with every matrix written out, and its derivative step by step: docs/learn/05_mixer.md.
#include <cmath>
#include <cstdint>
#include <vector>

namespace flare::by_hand {

/// A small dense matrix in f64, row-major.
struct Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<double> values = {};
  static Matrix zeros(int64_t rows, int64_t cols) { return {rows, cols, std::vector<double>(static_cast<size_t>(rows * cols))}; }
  double& operator()(int64_t i, int64_t j) { return values[static_cast<size_t>(i * cols + j)]; }
  double operator()(int64_t i, int64_t j) const { return values[static_cast<size_t>(i * cols + j)]; }
};
/// The matrix of f(i, j).
template <class F> Matrix matrix(int64_t rows, int64_t cols, const F& f) {
  Matrix m = Matrix::zeros(rows, cols);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) m(i, j) = f(i, j);
  return m;
}
inline Matrix transposed(const Matrix& a) {
  return matrix(a.cols, a.rows, [&](int64_t i, int64_t j) { return a(j, i); });
}
inline Matrix product(const Matrix& a, const Matrix& b) {
  return matrix(a.rows, b.cols, [&](int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t l = 0; l < a.cols; ++l) sum += a(i, l) * b(l, j);
    return sum;
  });
}
/// Σ_j a[i,j]·b[i,j] as a column.
inline Matrix row_dots(const Matrix& a, const Matrix& b) {
  Matrix sums = Matrix::zeros(a.rows, 1);
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < a.cols; ++j) sums(i, 0) += a(i, j) * b(i, j);
  return sums;
}
/// log Σ_j exp a[i,j] as a column, without overflow.
inline Matrix row_logsumexp(const Matrix& a) {
  return matrix(a.rows, 1, [&](int64_t i, int64_t) {
    double top = a(i, 0), sum = 0;
    for (int64_t j = 1; j < a.cols; ++j) top = std::fmax(top, a(i, j));
    for (int64_t j = 0; j < a.cols; ++j) sum += std::exp(a(i, j) - top);
    return top + std::log(sum);
  });
}

struct Forward {
  Matrix S, l, A, z, lambda, P, y;
};
/// q [M,D], k and v [N,D].
inline Forward forward(const Matrix& q, const Matrix& k, const Matrix& v, double s) {
  Forward f;
  const int64_t M = q.rows, N = k.rows;
  f.S = product(q, transposed(k));
  for (double& x : f.S.values) x *= s;
  f.l = row_logsumexp(f.S);
  f.A = matrix(M, N, [&](int64_t m, int64_t n) { return std::exp(f.S(m, n) - f.l(m, 0)); });
  f.z = product(f.A, v);
  f.lambda = row_logsumexp(transposed(f.S));
  f.P = matrix(N, M, [&](int64_t n, int64_t m) { return std::exp(f.S(m, n) - f.lambda(n, 0)); });
  f.y = product(f.P, f.z);
  return f;
}

struct Backward {
  Matrix dz, delta, dSd, dv, epsilon, dSe, dk, dq;
};
/// g [N,D]: the gradient of the loss with respect to y.
inline Backward backward(const Matrix& q, const Matrix& k, const Matrix& v, double s, const Forward& f, const Matrix& g) {
  Backward b;
  const int64_t M = q.rows, N = k.rows, D = q.cols;
  // Decode: y = P z, P = softmax of Sᵀ over latents.
  b.dz = product(transposed(f.P), g);
  const Matrix dP = product(g, transposed(f.z));
  b.delta = row_dots(g, f.y);
  b.dSd = matrix(N, M, [&](int64_t n, int64_t m) { return f.P(n, m) * (dP(n, m) - b.delta(n, 0)); });
  // Encode: z = A v, A = softmax of S over tokens. It needs dz of all tokens.
  b.dv = product(transposed(f.A), b.dz);
  const Matrix dA = product(b.dz, transposed(v));
  b.epsilon = row_dots(b.dz, f.z);
  b.dSe = matrix(M, N, [&](int64_t m, int64_t n) { return f.A(m, n) * (dA(m, n) - b.epsilon(m, 0)); });
  // Both softmaxes read the same scores S = s q kᵀ.
  const Matrix W = matrix(M, N, [&](int64_t m, int64_t n) { return b.dSd(n, m) + b.dSe(m, n); });
  b.dk = product(transposed(W), q);
  b.dq = product(W, k);
  for (int64_t i = 0; i < N * D; ++i) b.dk.values[static_cast<size_t>(i)] *= s;
  for (int64_t i = 0; i < M * D; ++i) b.dq.values[static_cast<size_t>(i)] *= s;
  return b;
}

}  // namespace flare::by_hand
