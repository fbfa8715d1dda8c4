// Between 16-bit elements and the floats that are computed with, many at once.
#pragma once

#include "core/dtype.h"
#include "cpu/isa/table.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace fgunlearn::cpu::FGU_ISA {

// The next values as floats. Half conversion has an instruction but no form the compiler would vectorise.
inline void widen(const f16_t* from, int64_t n, float* to) {
  int64_t i = 0;
#if defined(__AVX2__)
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
  }
#endif
  for (; i < n; ++i) to[i] = to_f32(from[i]);
}

inline void widen(const bf16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_f32(from[i]);
}

// Rounded to nearest, ties to even. The instruction and to_f16 differ in the bits of a NaN unless it is the default
// one.
inline void narrow(const float* from, int64_t n, f16_t* to) {
  int64_t i = 0;
#if defined(__AVX2__)
  for (; i + 8 <= n; i += 8) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
  }
#endif
  for (; i < n; ++i) to[i] = to_f16(from[i]);
}

inline void narrow(const float* from, int64_t n, bf16_t* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = to_bf16(from[i]);
}

}  // namespace fgunlearn::cpu::FGU_ISA
