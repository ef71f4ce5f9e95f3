#pragma once
/// Elementwise ops. To add one: a struct with its formula and derivative, its name in the list below it, and a one-line
/// function. The loops, kernels, tape nodes, tests and benchmark are templates over the lists (ops/pointwise.cu).
#include <numbers>

#include "autograd/op.h"
#include "core/math.h"

namespace flare {

template <class... Ops> struct OpList {};

/// A unary op: forward(x), derivative(x, y) = dy/dx with y = forward(x). `needs_output` keeps y instead of x for the backward
/// pass. `lo`, `hi`: range of the test inputs, away from poles and kinks.
struct UnaryDefaults {
  static constexpr bool needs_output = false;
  static constexpr double lo = -3, hi = 3;
};

/// exp(x), elementwise.  x: [any] -> [any].
struct Exp : UnaryDefaults {
  static constexpr const char* name = "exp";
  static constexpr bool needs_output = true;
  template <class T> FLARE_HD static T forward(T x) { return exp_of(x); }
  template <class T> FLARE_HD static T derivative(T, T y) { return y; }
};
/// Natural logarithm; -inf at 0, NaN below.
struct Log : UnaryDefaults {
  static constexpr const char* name = "log";
  static constexpr double lo = 0.3, hi = 3;
  template <class T> FLARE_HD static T forward(T x) { return log_of(x); }
  template <class T> FLARE_HD static T derivative(T x, T) { return T(1) / x; }
};
struct Tanh : UnaryDefaults {
  static constexpr const char* name = "tanh";
  static constexpr bool needs_output = true;
  template <class T> FLARE_HD static T forward(T x) { return tanh_of(x); }
  template <class T> FLARE_HD static T derivative(T, T y) { return T(1) - y * y; }
};
/// 1 / (1 + exp(-x)).
struct Sigmoid : UnaryDefaults {
  static constexpr const char* name = "sigmoid";
  static constexpr bool needs_output = true;
  template <class T> FLARE_HD static T forward(T x) { return sigmoid_of(x); }
  template <class T> FLARE_HD static T derivative(T, T y) { return y * (T(1) - y); }
};
/// max(x, 0); the derivative at 0 is 0.
struct Relu : UnaryDefaults {
  static constexpr const char* name = "relu";
  static constexpr double lo = 0.05, hi = 3;  // one side of the kink; the other is the constant 0, tested in test_pointwise.cpp
  template <class T> FLARE_HD static T forward(T x) { return x > T(0) ? x : (x == x ? T(0) : x); }
  template <class T> FLARE_HD static T derivative(T x, T) { return x > T(0) ? T(1) : T(0); }
};
/// GELU in its tanh form: x/2 · (1 + tanh(√(2/π)(x + 0.044715 x³))).  Source: Hendrycks & Gimpel, arXiv 1606.08415. Computed as
/// x·σ(w), w = 2√(2/π)(x + 0.044715 x³), the same function. From t = exp(-|w|) come σ(w) and σ(w)σ(-w) = t/(1+t)² without
/// cancellation.
struct Gelu : UnaryDefaults {
  static constexpr const char* name = "gelu";
  static constexpr double kA = 2 * 0.79788456080286535588, kB = 0.044715;  // 2√(2/π)
  template <class T> FLARE_HD static T decay(T x) {                        // t
    const T w = T(kA) * x * (T(1) + T(kB) * x * x);
    return exp_of_negative(w < T(0) ? w : -w);
  }
  template <class T> FLARE_HD static T forward(T x) {
    const T t = decay(x);
    return x * (x < T(0) ? t : T(1)) / (T(1) + t);
  }
  template <class T> FLARE_HD static T derivative(T x, T) {
    const T t = decay(x), r = T(1) / (T(1) + t);
    return (x < T(0) ? t : T(1)) * r + x * t * r * r * T(kA) * (T(1) + T(3 * kB) * x * x);
  }
};
/// GELU in its exact form: x · Φ(x) = x/2 · (1 + erf(x/√2)).  Source: arXiv 1606.08415.
struct GeluErf : UnaryDefaults {
  static constexpr const char* name = "gelu_erf";
  template <class T> FLARE_HD static T forward(T x) { return T(0.5) * x * (T(1) + erf_of(x * T(std::numbers::sqrt2 / 2))); }
  template <class T> FLARE_HD static T derivative(T x, T) {
    return T(0.5) * (T(1) + erf_of(x * T(std::numbers::sqrt2 / 2))) +
           x * exp_of(T(-0.5) * x * x) * T(std::numbers::inv_sqrtpi * std::numbers::sqrt2 / 2);
  }
};
/// silu(x) = x·σ(x).  Source: Elfwing et al., arXiv 1702.03118.
struct Silu : UnaryDefaults {
  static constexpr const char* name = "silu";
  template <class T> FLARE_HD static T forward(T x) { return x * sigmoid_of(x); }
  template <class T> FLARE_HD static T derivative(T x, T) {
    const T s = sigmoid_of(x);
    return s * (T(1) + x * (T(1) - s));
  }
};
/// elu(x) + 1: x + 1 above 0, exp(x) below. Positive, and without the cancellation that adding 1 to elu(x) would bring.
/// The feature map of linear attention; source: arXiv 2006.16236, equation 7.
struct EluPlusOne : UnaryDefaults {
  static constexpr const char* name = "elu_plus_one";
  static constexpr bool needs_output = true;
  template <class T> FLARE_HD static T forward(T x) { return x > T(0) ? x + T(1) : exp_of(x); }
  template <class T> FLARE_HD static T derivative(T, T y) { return y < T(1) ? y : T(1); }
};
struct Neg : UnaryDefaults {
  static constexpr const char* name = "neg";
  template <class T> FLARE_HD static T forward(T x) { return -x; }
  template <class T> FLARE_HD static T derivative(T, T) { return T(-1); }
};
struct Square : UnaryDefaults {
  static constexpr const char* name = "square";
  template <class T> FLARE_HD static T forward(T x) { return x * x; }
  template <class T> FLARE_HD static T derivative(T x, T) { return T(2) * x; }
};
struct Sqrt : UnaryDefaults {
  static constexpr const char* name = "sqrt";
  static constexpr bool needs_output = true;
  static constexpr double lo = 0.3, hi = 3;
  template <class T> FLARE_HD static T forward(T x) { return sqrt_of(x); }
  template <class T> FLARE_HD static T derivative(T, T y) { return T(0.5) / y; }
};
/// |x|; the derivative at 0 is 0.
struct Abs : UnaryDefaults {
  static constexpr const char* name = "abs";
  static constexpr double lo = 0.05, hi = 3;
  template <class T> FLARE_HD static T forward(T x) { return x < T(0) ? -x : x; }
  template <class T> FLARE_HD static T derivative(T x, T) { return x > T(0) ? T(1) : (x < T(0) ? T(-1) : T(0)); }
};
using UnaryOps = OpList<Exp, Log, Tanh, Sigmoid, Relu, Gelu, GeluErf, Silu, EluPlusOne, Neg, Square, Sqrt, Abs>;

/// A binary op with NumPy broadcasting: forward(x, y), dx(x, y) and dy(x, y) its partial derivatives.
struct BinaryDefaults {
  static constexpr bool needs_inputs = true;  // false: the derivatives are constants, and the tape keeps nothing
  static constexpr double lo = -3, hi = 3;
};
struct Add : BinaryDefaults {
  static constexpr const char* name = "add";
  static constexpr bool needs_inputs = false;
  template <class T> FLARE_HD static T forward(T x, T y) { return x + y; }
  template <class T> FLARE_HD static T dx(T, T) { return T(1); }
  template <class T> FLARE_HD static T dy(T, T) { return T(1); }
};
struct Sub : BinaryDefaults {
  static constexpr const char* name = "sub";
  static constexpr bool needs_inputs = false;
  template <class T> FLARE_HD static T forward(T x, T y) { return x - y; }
  template <class T> FLARE_HD static T dx(T, T) { return T(1); }
  template <class T> FLARE_HD static T dy(T, T) { return T(-1); }
};
struct Mul : BinaryDefaults {
  static constexpr const char* name = "mul";
  template <class T> FLARE_HD static T forward(T x, T y) { return x * y; }
  template <class T> FLARE_HD static T dx(T, T y) { return y; }
  template <class T> FLARE_HD static T dy(T x, T) { return x; }
};
struct Div : BinaryDefaults {
  static constexpr const char* name = "div";
  static constexpr double lo = 0.5, hi = 3;
  template <class T> FLARE_HD static T forward(T x, T y) { return x / y; }
  template <class T> FLARE_HD static T dx(T, T y) { return T(1) / y; }
  template <class T> FLARE_HD static T dy(T x, T y) { return -x / (y * y); }
};
using BinaryOps = OpList<Add, Sub, Mul, Div>;

// The position of an op in its list picks its functions from a table, so that callers need no template bodies.
template <class Op, class List> struct IndexOf;
template <class Op, class... Rest> struct IndexOf<Op, OpList<Op, Rest...>> { static constexpr int value = 0; };
template <class Op, class First, class... Rest> struct IndexOf<Op, OpList<First, Rest...>> {
  static constexpr int value = 1 + IndexOf<Op, OpList<Rest...>>::value;
};
Tensor apply_unary(int index, const Tensor& x);
Tensor apply_binary(int index, const Tensor& x, const Tensor& y);
template <class Op> Tensor pointwise(const Tensor& x) { return apply_unary(IndexOf<Op, UnaryOps>::value, x); }
template <class Op> Tensor pointwise(const Tensor& x, const Tensor& y) { return apply_binary(IndexOf<Op, BinaryOps>::value, x, y); }

inline Tensor exp(const Tensor& x) { return pointwise<Exp>(x); }
inline Tensor log(const Tensor& x) { return pointwise<Log>(x); }
inline Tensor tanh(const Tensor& x) { return pointwise<Tanh>(x); }
inline Tensor sigmoid(const Tensor& x) { return pointwise<Sigmoid>(x); }
inline Tensor relu(const Tensor& x) { return pointwise<Relu>(x); }
inline Tensor gelu(const Tensor& x) { return pointwise<Gelu>(x); }
inline Tensor gelu_erf(const Tensor& x) { return pointwise<GeluErf>(x); }
inline Tensor silu(const Tensor& x) { return pointwise<Silu>(x); }
inline Tensor elu_plus_one(const Tensor& x) { return pointwise<EluPlusOne>(x); }
inline Tensor neg(const Tensor& x) { return pointwise<Neg>(x); }
inline Tensor square(const Tensor& x) { return pointwise<Square>(x); }
inline Tensor sqrt(const Tensor& x) { return pointwise<Sqrt>(x); }
inline Tensor abs(const Tensor& x) { return pointwise<Abs>(x); }
inline Tensor add(const Tensor& x, const Tensor& y) { return pointwise<Add>(x, y); }
inline Tensor sub(const Tensor& x, const Tensor& y) { return pointwise<Sub>(x, y); }
inline Tensor mul(const Tensor& x, const Tensor& y) { return pointwise<Mul>(x, y); }
inline Tensor div(const Tensor& x, const Tensor& y) { return pointwise<Div>(x, y); }

/// a·x + b with constants a and b, elementwise.
Tensor affine(const Tensor& x, double a, double b = 0);

inline Tensor operator+(const Tensor& x, const Tensor& y) { return add(x, y); }
inline Tensor operator-(const Tensor& x, const Tensor& y) { return sub(x, y); }
inline Tensor operator*(const Tensor& x, const Tensor& y) { return mul(x, y); }
inline Tensor operator/(const Tensor& x, const Tensor& y) { return div(x, y); }
inline Tensor operator*(const Tensor& x, double a) { return affine(x, a); }
inline Tensor operator*(double a, const Tensor& x) { return affine(x, a); }
inline Tensor operator+(const Tensor& x, double b) { return affine(x, 1, b); }
inline Tensor operator-(const Tensor& x) { return neg(x); }

}  // namespace flare
