// Selection's two inner loops: comparing keys with a bracket, and drawing Random-k's keys.
//
// classify reads each key once (4 bytes for f32) and writes 2 bits; per 64 keys it issues 8 compares and no branch, so
// on a processor with AVX2 it waits for memory. random_words reads nothing: about 2 instructions per word with AVX-512.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <type_traits>

#include "core/philox.h"
#include "core/select.h"
#include "cpu/isa/philox.h"
#include "cpu/isa/table.h"

namespace fgunlearn::cpu::FGU_ISA {

#if defined(__AVX512F__) && defined(__AVX512BW__)

struct Keys32 {  // 16 keys
  static constexpr int lanes = 16;
  using Vec = __m512i;
  static Vec abs(__m512i v) { return _mm512_and_si512(v, _mm512_set1_epi32(0x7fffffff)); }
  static Vec load(const float* x) { return abs(_mm512_loadu_si512(x)); }
  static Vec load(const bf16_t* x) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return abs(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static Vec load(const f16_t* x) {  // the conversion is exact, subnormals included, whatever MXCSR says
    return abs(_mm512_castps_si512(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)))));
  }
  static Vec max(Vec a, Vec b) { return _mm512_max_epu32(a, b); }
  static uint64_t at_least(Vec v, uint32_t limit) {
    return _mm512_cmpge_epu32_mask(v, _mm512_set1_epi32(static_cast<int>(limit)));
  }
  static uint32_t reduce_max(Vec v) { return _mm512_reduce_max_epu32(v); }
  static Vec zero() { return _mm512_setzero_si512(); }
  static void store(uint32_t* keys, Vec v) { _mm512_storeu_si512(keys, v); }
};

struct Keys64 {  // 8 keys
  static constexpr int lanes = 8;
  using Vec = __m512i;
  static Vec load(const double* x) {
    return _mm512_and_si512(_mm512_loadu_si512(x), _mm512_set1_epi64(0x7fffffffffffffffll));
  }
  static Vec max(Vec a, Vec b) { return _mm512_max_epu64(a, b); }
  static uint64_t at_least(Vec v, uint64_t limit) {
    return _mm512_cmpge_epu64_mask(v, _mm512_set1_epi64(static_cast<long long>(limit)));
  }
  static uint64_t reduce_max(Vec v) { return _mm512_reduce_max_epu64(v); }
  static Vec zero() { return _mm512_setzero_si512(); }
  static void store(uint64_t* keys, Vec v) { _mm512_storeu_si512(keys, v); }
};

#elif defined(__AVX2__)

// Keys have a clear sign bit, so signed compares order them; "at least limit" is "greater than limit - 1", which also
// holds for limit = 0 (-1: everything) and for KeyTraits::above_all (the largest integer: nothing).
struct Keys32 {  // 8 keys
  static constexpr int lanes = 8;
  using Vec = __m256i;
  static Vec abs(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi32(0x7fffffff)); }
  static Vec load(const float* x) { return abs(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x))); }
  static Vec load(const bf16_t* x) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x));
    return abs(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
  }
  static Vec load(const f16_t* x) {
    return abs(_mm256_castps_si256(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x)))));
  }
  static Vec max(Vec a, Vec b) { return _mm256_max_epu32(a, b); }
  static uint64_t at_least(Vec v, uint32_t limit) {
    const __m256i gt = _mm256_cmpgt_epi32(v, _mm256_set1_epi32(static_cast<int>(limit - 1u)));
    return static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(gt))));
  }
  static uint32_t reduce_max(Vec v) {
    alignas(32) uint32_t lane[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lane), v);
    uint32_t most = 0;
    for (uint32_t key : lane) most = key > most ? key : most;
    return most;
  }
  static Vec zero() { return _mm256_setzero_si256(); }
  static void store(uint32_t* keys, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(keys), v); }
};

struct Keys64 {  // 4 keys
  static constexpr int lanes = 4;
  using Vec = __m256i;
  static Vec load(const double* x) {
    return _mm256_and_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)),
                            _mm256_set1_epi64x(0x7fffffffffffffffll));
  }
  static Vec max(Vec a, Vec b) { return _mm256_blendv_epi8(a, b, _mm256_cmpgt_epi64(b, a)); }
  static uint64_t at_least(Vec v, uint64_t limit) {
    const __m256i gt = _mm256_cmpgt_epi64(v, _mm256_set1_epi64x(static_cast<long long>(limit - 1u)));
    return static_cast<uint64_t>(static_cast<uint32_t>(_mm256_movemask_pd(_mm256_castsi256_pd(gt))));
  }
  static uint64_t reduce_max(Vec v) {
    alignas(32) uint64_t lane[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lane), v);
    uint64_t most = 0;
    for (uint64_t key : lane) most = key > most ? key : most;
    return most;
  }
  static Vec zero() { return _mm256_setzero_si256(); }
  static void store(uint64_t* keys, Vec v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(keys), v); }
};

#endif

template <typename T, typename Key>
inline void classify_word(const T* x, int64_t n, Key low, Key high, uint64_t& above, uint64_t& between, Key& largest) {
  uint64_t a = 0;
  uint64_t b = 0;
  for (int64_t i = 0; i < n; ++i) {
    const Key key = key_of<Key>(x[i]);
    largest = key > largest ? key : largest;
    a |= static_cast<uint64_t>(key >= high) << i;
    b |= static_cast<uint64_t>(key >= low) << i;
  }
  above = a;
  between = b & ~a;
}

template <typename T, typename Key>
Classified classify(const void* data, int64_t n, uint64_t low_, uint64_t high_, uint64_t* above, uint64_t* between) {
  const T* x = static_cast<const T*>(data);
  const Key low = static_cast<Key>(low_);
  const Key high = static_cast<Key>(high_);
  Classified result;
  Key largest = 0;
  int64_t word = 0;
#if defined(__AVX2__)
  // A float, half or bfloat16 key is only widened to 64 bits when its list also holds f64: rare enough for the plain
  // loop.
  if constexpr ((sizeof(T) == 8) == (sizeof(Key) == 8)) {
    using Keys = std::conditional_t<sizeof(Key) == 8, Keys64, Keys32>;
    auto most = Keys::zero();
    for (; (word + 1) * kWordBits <= n; ++word) {
      const T* p = x + word * kWordBits;
      uint64_t a = 0;
      uint64_t b = 0;
#pragma GCC unroll 16
      for (int v = 0; v < kWordBits / Keys::lanes; ++v) {
        const auto keys = Keys::load(p + v * Keys::lanes);
        most = Keys::max(most, keys);
        a |= Keys::at_least(keys, high) << (v * Keys::lanes);
        b |= Keys::at_least(keys, low) << (v * Keys::lanes);
      }
      b &= ~a;
      above[word] = a;
      between[word] = b;
      result.above += __builtin_popcountll(a);
      result.between += __builtin_popcountll(b);
    }
    largest = Keys::reduce_max(most);
  }
#endif
  for (; word * kWordBits < n; ++word) {
    const int64_t rest = n - word * kWordBits;
    classify_word<T, Key>(x + word * kWordBits, rest < kWordBits ? rest : kWordBits, low, high, above[word],
                          between[word], largest);
    result.above += __builtin_popcountll(above[word]);
    result.between += __builtin_popcountll(between[word]);
  }
  result.largest = largest;
  return result;
}

inline void random_words(uint64_t seed, uint32_t stream, int64_t first_group, int64_t groups, uint32_t* out) {
  PhiloxLanes random;
  for (int64_t g = 0; g < groups; ++g) {
    const uint64_t base = static_cast<uint64_t>(first_group + g) * kLanes;
    for (int l = 0; l < kLanes; ++l) {
      random.word[0][l] = static_cast<uint32_t>(base) + static_cast<uint32_t>(l);  // a multiple of 16: no carry
      random.word[1][l] = static_cast<uint32_t>(base >> 32);
    }
    random.scramble(seed, stream);
    memcpy(out + g * kPhiloxGroup, random.word, sizeof(random.word));
  }
}

}  // namespace fgunlearn::cpu::FGU_ISA
