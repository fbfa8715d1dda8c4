// The inner loop of score accumulation: s += w * f(g), f one of g, |g|, g^2.
//
// Reads g (4 bytes for f32) and s (4), writes s (4): 12 bytes per element, which is the floor; the arithmetic hides
// behind it. Each product is rounded before the sum (no fused multiply-add), so every instruction set gives the same
// bits.
#pragma once

#include <type_traits>

#include "core/dtype.h"
#include "cpu/isa/convert.h"
#include "cpu/isa/table.h"

namespace fgunlearn::cpu::FGU_ISA {

// The sign bit cleared, also of -0 and NaN, as torch.abs does; the compiler makes it one vector instruction.
inline float magnitude(float x) { return __builtin_fabsf(x); }
inline double magnitude(double x) { return __builtin_fabs(x); }

template <typename S, typename G, ScoreKind kind>
inline void accumulate_one(S* s, const G* g, int64_t n, S weight) {
  for (int64_t i = 0; i < n; ++i) {
    S value = static_cast<S>(Convert<G>::load(g[i]));
    if constexpr (kind == ScoreKind::abs_grad) value = magnitude(value);
    if constexpr (kind == ScoreKind::fisher) value = value * value;
    s[i] += weight * value;
  }
}

template <typename S, typename G>
void accumulate(void* score, const void* grad, int64_t n, double weight, ScoreKind kind) {
  S* s = static_cast<S*>(score);
  const G* g = static_cast<const G*>(grad);
  const S w = static_cast<S>(weight);
  if constexpr (std::is_same_v<G, f16_t> && std::is_same_v<S, float>) {
    constexpr int64_t tile = 1024;
    float floats[tile];
    for (int64_t i = 0; i < n; i += tile) {
      const int64_t count = n - i < tile ? n - i : tile;
      widen(g + i, count, floats);
      accumulate<float, float>(s + i, floats, count, weight, kind);
    }
    return;
  } else {
    switch (kind) {
      case ScoreKind::grad:
        return accumulate_one<S, G, ScoreKind::grad>(s, g, n, w);
      case ScoreKind::abs_grad:
        return accumulate_one<S, G, ScoreKind::abs_grad>(s, g, n, w);
      case ScoreKind::fisher:
        return accumulate_one<S, G, ScoreKind::fisher>(s, g, n, w);
    }
  }
}

// How many of the n values are NaN or infinite.
template <typename T>
int64_t count_nonfinite(const void* data, int64_t n) {
  using Bits = std::conditional_t<sizeof(T) == 8, uint64_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint16_t>>;
  constexpr Bits exponent = std::is_same_v<T, double>  ? static_cast<Bits>(0x7ff0000000000000ull)
                            : std::is_same_v<T, float> ? static_cast<Bits>(0x7f800000u)
                            : std::is_same_v<T, f16_t> ? static_cast<Bits>(0x7c00u)
                                                       : static_cast<Bits>(0x7f80u);
  const T* x = static_cast<const T*>(data);
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += (bits::cast<Bits>(x[i]) & exponent) == exponent;
  return count;
}

}  // namespace fgunlearn::cpu::FGU_ISA
