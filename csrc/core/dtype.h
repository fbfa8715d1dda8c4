// Element types and their exact conversions, host and device.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define FGU_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Always inlined: no out-of-line copy built with one instruction set can be linked into code for another.
#define FGU_HOST_DEVICE inline __attribute__((always_inline))
#endif

namespace fgunlearn {

enum class DType : int32_t { f32, f64, f16, bf16 };

// Storage types: distinct from integers so that overloads can tell them apart.
struct f16_t {
  uint16_t bits;
};
struct bf16_t {
  uint16_t bits;
};

FGU_HOST_DEVICE constexpr int64_t item_size(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

namespace bits {

template <typename To, typename From>
FGU_HOST_DEVICE To cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof(to));
  return to;
}

}  // namespace bits

// Integer arithmetic, or the one instruction that the device has for it: the result does not depend on flush-to-zero
// modes.
FGU_HOST_DEVICE float to_f32(f16_t x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  uint32_t exponent = (x.bits >> 10) & 0x1fu;
  uint32_t mantissa = x.bits & 0x3ffu;
  if (exponent == 0x1fu) return bits::cast<float>(sign | 0x7f800000u | (mantissa << 13));
#if defined(__CUDA_ARCH__)
  float exact;  // not for a NaN, whose bits it would not keep
  asm("cvt.f32.f16 %0, %1;" : "=f"(exact) : "h"(x.bits));
  return exact;
#else
  if (exponent == 0) {
    if (mantissa == 0) return bits::cast<float>(sign);
    // A half's subnormal is a normal float: shift the leading one into place.
    exponent = 1;
    while ((mantissa & 0x400u) == 0) {
      mantissa <<= 1;
      --exponent;
    }
    mantissa &= 0x3ffu;
  }
  return bits::cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
#endif
}

FGU_HOST_DEVICE float to_f32(bf16_t x) { return bits::cast<float>(static_cast<uint32_t>(x.bits) << 16); }

FGU_HOST_DEVICE float to_f32(float x) { return x; }

// Round to nearest, ties to even, as torch does.
FGU_HOST_DEVICE bf16_t to_bf16(float x) {
  const uint32_t u = bits::cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bf16_t{0x7fc0u};
  return bf16_t{static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

FGU_HOST_DEVICE f16_t to_f16(float x) {
  const uint32_t u = bits::cast<uint32_t>(x);
  const uint16_t sign = static_cast<uint16_t>((u >> 16) & 0x8000u);
  const uint32_t magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return f16_t{static_cast<uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return f16_t{static_cast<uint16_t>(sign | 0x7c00u)};  // >= 65520: infinity
  if (magnitude < 0x33000001u) return f16_t{sign};                                    // <= 2^-25: zero
  const int32_t exponent = static_cast<int32_t>(magnitude >> 23) - 112;
  uint32_t mantissa = magnitude & 0x7fffffu;
  uint32_t shift = 13;
  uint32_t high = 0;
  if (exponent <= 0) {  // a subnormal half: one more shift for each step below the smallest exponent
    mantissa |= 0x800000u;
    shift = static_cast<uint32_t>(14 - exponent);
  } else {
    high = static_cast<uint32_t>(exponent) << 10;
  }
  const uint32_t kept = mantissa >> shift;
  const uint32_t rest = mantissa & ((1u << shift) - 1u);
  const uint32_t half = 1u << (shift - 1u);
  const uint32_t up = (rest > half || (rest == half && (kept & 1u))) ? 1u : 0u;
  return f16_t{static_cast<uint16_t>(sign | (high + kept + up))};  // a carry moves into the exponent, rightly
}

template <typename T>
struct Convert;

template <>
struct Convert<float> {
  using accumulate_t = float;
  static FGU_HOST_DEVICE float load(float x) { return x; }
  static FGU_HOST_DEVICE float store(float x) { return x; }
};
template <>
struct Convert<double> {
  using accumulate_t = double;
  static FGU_HOST_DEVICE double load(double x) { return x; }
  static FGU_HOST_DEVICE double store(double x) { return x; }
};
template <>
struct Convert<f16_t> {
  using accumulate_t = float;
  static FGU_HOST_DEVICE float load(f16_t x) { return to_f32(x); }
  static FGU_HOST_DEVICE f16_t store(float x) { return to_f16(x); }
};
template <>
struct Convert<bf16_t> {
  using accumulate_t = float;
  static FGU_HOST_DEVICE float load(bf16_t x) { return to_f32(x); }
  static FGU_HOST_DEVICE bf16_t store(float x) { return to_bf16(x); }
};

// Calls body with a value of the element type of dtype: dispatch(d, [&](auto tag) { using T = decltype(tag); ... }).
template <typename Body>
inline decltype(auto) dispatch(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f64:
      return body(double{});
    case DType::f16:
      return body(f16_t{});
    case DType::bf16:
      return body(bf16_t{});
    case DType::f32:
      break;
  }
  return body(float{});
}

}  // namespace fgunlearn
