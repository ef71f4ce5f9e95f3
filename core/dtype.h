#pragma once
#include <bit>
#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <type_traits>

#include "core/check.h"
#include "core/hd.h"
#if defined(__CUDACC__)
#include <cuda_bf16.h>
#endif

namespace flare {

/// Element types. f64 exists on the CPU only, for derivative checks.
enum class DType : uint8_t { f64, f32, bf16, i64, i32, u8 };

/// bfloat16: the upper half of an IEEE float32, rounded to nearest even. Bit-compatible with __nv_bfloat16.
struct alignas(2) bf16 {
  uint16_t bits;
  bf16() = default;
  FLARE_HD explicit bf16(float x) {
#if defined(__CUDA_ARCH__)
    bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
#else
    const uint32_t u = std::bit_cast<uint32_t>(x);
    const bool is_nan = (u & 0x7fffffffu) > 0x7f800000u;
    bits = static_cast<uint16_t>(is_nan ? 0x7fc0u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
  }
  FLARE_HD explicit bf16(double x) : bf16(static_cast<float>(x)) {}
  FLARE_HD operator float() const {
#if defined(__CUDA_ARCH__)
    return __uint_as_float(static_cast<uint32_t>(bits) << 16);
#else
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
#endif
  }
};
static_assert(sizeof(bf16) == 2 && std::is_trivially_copyable_v<bf16>);

/// The type sums are accumulated in: double for f64, float for f32 and bf16.
template <class T> struct AccOf { using type = T; };
template <> struct AccOf<bf16> { using type = float; };
template <class T> using acc_t = typename AccOf<T>::type;
/// The type parameters have beside activations of type T: f64 beside f64, f32 beside f32 and bf16.
template <class T> using param_t = acc_t<T>;

template <class T> struct DTypeOf;
template <> struct DTypeOf<double> { static constexpr DType value = DType::f64; };
template <> struct DTypeOf<float> { static constexpr DType value = DType::f32; };
template <> struct DTypeOf<bf16> { static constexpr DType value = DType::bf16; };
template <> struct DTypeOf<int64_t> { static constexpr DType value = DType::i64; };
template <> struct DTypeOf<int32_t> { static constexpr DType value = DType::i32; };
template <> struct DTypeOf<uint8_t> { static constexpr DType value = DType::u8; };
template <class T> inline constexpr DType dtype_of = DTypeOf<T>::value;

constexpr int64_t size_of(DType t) {
  switch (t) {
    case DType::f64:
    case DType::i64: return 8;
    case DType::f32:
    case DType::i32: return 4;
    case DType::bf16: return 2;
    case DType::u8: return 1;
  }
  return 0;
}
constexpr bool is_float(DType t) { return t == DType::f64 || t == DType::f32 || t == DType::bf16; }
/// dtype of a parameter beside activations of dtype t (see param_t).
constexpr DType param_dtype(DType t) { return t == DType::bf16 ? DType::f32 : t; }

constexpr const char* name_of(DType t) {
  switch (t) {
    case DType::f64: return "f64";
    case DType::f32: return "f32";
    case DType::bf16: return "bf16";
    case DType::i64: return "i64";
    case DType::i32: return "i32";
    case DType::u8: return "u8";
  }
  return "?";
}
inline std::ostream& operator<<(std::ostream& out, DType t) { return out << name_of(t); }

template <class T> struct TypeTag { using type = T; };

/// Calls f(TypeTag<T>{}) with the C++ type of a floating dtype: f64, f32, bf16. Throws ShapeError naming `who` otherwise.
template <class F> decltype(auto) dispatch_float(DType t, const char* who, F&& f) {
  switch (t) {
    case DType::f64: return f(TypeTag<double>{});
    case DType::f32: return f(TypeTag<float>{});
    case DType::bf16: return f(TypeTag<bf16>{});
    default: throw ShapeError(cat(who, ": needs a floating dtype, got ", t));
  }
}
/// The same for device code, which has no f64.
template <class F> decltype(auto) dispatch_float_cuda(DType t, const char* who, F&& f) {
  switch (t) {
    case DType::f32: return f(TypeTag<float>{});
    case DType::bf16: return f(TypeTag<bf16>{});
    default: throw ShapeError(cat(who, ": CUDA takes f32 and bf16, got ", t, "; use the CPU for f64"));
  }
}
/// Calls f with the C++ type of any dtype.
template <class F> decltype(auto) dispatch_any(DType t, F&& f) {
  switch (t) {
    case DType::f64: return f(TypeTag<double>{});
    case DType::f32: return f(TypeTag<float>{});
    case DType::bf16: return f(TypeTag<bf16>{});
    case DType::i64: return f(TypeTag<int64_t>{});
    case DType::i32: return f(TypeTag<int32_t>{});
    default: return f(TypeTag<uint8_t>{});
  }
}

}  // namespace flare
