// Element types, bfloat16, and dispatch from a run-time type to a compile-time one. Usable from .cpp and .cu files.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <type_traits>

#ifdef __CUDACC__
#define T6_HOST_DEVICE __host__ __device__
#else
#define T6_HOST_DEVICE
#endif

namespace t6 {

// f32 and bf16 train; f64 is for gradient checks; i32 holds tokens.
enum class DType : uint8_t { f32, bf16, f64, i32 };

constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::bf16:
      return 2;
    case DType::f64:
      return 8;
    default:
      return 4;
  }
}

constexpr const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::f64:
      return "f64";
    default:
      return "i32";
  }
}

// The upper half of an f32; conversion rounds to nearest, ties to even, and keeps NaN a NaN.
struct bfloat16 {
  uint16_t bits = 0;

  bfloat16() = default;
  T6_HOST_DEVICE explicit bfloat16(float value) : bits(round(value)) {}
  T6_HOST_DEVICE operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }

  static T6_HOST_DEVICE uint16_t round(float value) {
#if defined(__CUDA_ARCH__)
    uint32_t pair;  // the instruction for two numbers: that for one runs at a fraction of its rate
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(0.0f), "f"(value));
    return static_cast<uint16_t>(pair);
#else
    const uint32_t u = std::bit_cast<uint32_t>(value);
    const uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
    return static_cast<uint16_t>((u & 0x7FFFFFFFu) > 0x7F800000u ? (u >> 16) | 0x40u : rounded);
#endif
  }
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> : std::integral_constant<DType, DType::f32> {};
template <>
struct DTypeOf<bfloat16> : std::integral_constant<DType, DType::bf16> {};
template <>
struct DTypeOf<double> : std::integral_constant<DType, DType::f64> {};
template <>
struct DTypeOf<int32_t> : std::integral_constant<DType, DType::i32> {};

template <class T>
inline constexpr DType dtype_of = DTypeOf<T>::value;

// The type statistics and sums are kept in: f64 for f64, otherwise f32.
template <class T>
using Accumulate = std::conditional_t<std::is_same_v<T, double>, double, float>;
constexpr DType accumulate_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

// to = value, rounded. In `omp simd` loops write bf16 elements this way: a bfloat16 made by a conversion is a temporary
// object there, which keeps gcc from vectorising the loop.
template <class To>
T6_HOST_DEVICE inline void store(To& to, Accumulate<To> value) {
  if constexpr (std::is_same_v<To, bfloat16>) {
    to.bits = bfloat16::round(value);
  } else {
    to = value;
  }
}

// Calls f(T{}) with the C++ type of a floating-point dtype.
template <class F>
decltype(auto) dispatch_float(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::bf16:
      return f(bfloat16{});
    case DType::f64:
      return f(double{});
    default:
      throw std::logic_error("expected a floating-point dtype, got i32");
  }
}

}  // namespace t6
