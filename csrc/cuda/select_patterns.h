// Comparing the elements of one 16-byte vector with a bracket, in their own format.
//
// Magnitudes of one format are ordered like their bit patterns without the sign. So the bracket is translated once per
// tile, from keys into patterns of the tensor's dtype, and the inner loop converts nothing. The 16-bit formats are
// compared two at a time: with the sign bit set, (0x8000 | pattern) - limit keeps it exactly when pattern >= limit, and
// no borrow crosses into the neighbour.
#pragma once

#include <type_traits>

#include "core/select.h"
#include "cuda/warp.h"

namespace fgunlearn::cuda {

// The smallest 32-bit key whose widened form is at least `limit`; KeyTraits::above_all where there is none.
__device__ inline uint32_t narrow_limit(uint64_t limit) {
  constexpr uint64_t infinity = KeyTraits<uint64_t>::infinity;
  constexpr uint32_t infinity32 = KeyTraits<uint32_t>::infinity;
  if (limit > infinity) {
    const uint64_t payload = (limit - infinity + ((uint64_t{1} << 29) - 1)) >> 29;
    return payload >= 0x800000u ? KeyTraits<uint32_t>::above_all : infinity32 + static_cast<uint32_t>(payload);
  }
  uint32_t key = key32(static_cast<float>(bits::cast<double>(limit)));  // rounds: right to one step
  if (widen_key(key) < limit) ++key;
  if (key > 0 && widen_key(key - 1) >= limit) --key;
  return key;
}

// The smallest pattern of T whose key is at least `limit`; one above the largest pattern where there is none.
template <typename T>
__device__ inline uint32_t pattern_limit32(uint32_t limit) {
  if constexpr (std::is_same_v<T, bf16_t>) {
    return (limit + 0xffffu) >> 16;
  } else if constexpr (std::is_same_v<T, f16_t>) {
    if (limit > KeyTraits<uint32_t>::infinity) {
      const uint32_t payload = (limit - KeyTraits<uint32_t>::infinity + 0x1fffu) >> 13;
      return payload >= 0x400u ? 0x8000u : 0x7c00u + payload;
    }
    uint32_t pattern = to_f16(bits::cast<float>(limit)).bits;  // rounds: right to one step
    if (key32(f16_t{static_cast<uint16_t>(pattern)}) < limit) ++pattern;
    if (pattern > 0 && key32(f16_t{static_cast<uint16_t>(pattern - 1)}) >= limit) --pattern;
    return pattern;
  } else {
    return limit;
  }
}

template <typename T>
using Pattern = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <typename T, typename Key>
__device__ inline Pattern<T> pattern_limit(Key limit) {
  if constexpr (sizeof(T) == 8) {
    return limit;
  } else if constexpr (sizeof(Key) == 8) {
    return pattern_limit32<T>(narrow_limit(limit));
  } else {
    return pattern_limit32<T>(limit);
  }
}

// A bracket in patterns of T; `bad` is the smallest pattern that is refused.
template <typename T>
struct Limits {
  template <typename Key>
  __device__ Limits(Key low_, Key high_, bool finite_only)
      : low(pattern_limit<T>(low_)),
        high(pattern_limit<T>(high_)),
        bad(pattern_limit<T>(static_cast<Key>(KeyTraits<Key>::infinity + (finite_only ? 0 : 1)))) {}

  Pattern<T> low;
  Pattern<T> high;
  Pattern<T> bad;
};

// What the vectors of one lane and chunk gather: bit i says that element i is at least high, or at least low.
struct LaneBits {
  uint32_t above = 0;
  uint32_t at_least = 0;
  bool bad = false;
};

template <typename T>
constexpr int kPerVector = static_cast<int>(16 / sizeof(T));

// Bits 15 and 31 say whether the two patterns of `pair` are at least the limit, which stands in both halves.
__device__ inline uint32_t pair_at_least(uint32_t pair, uint32_t limit) {
  return ((pair & 0x7fff7fffu) | 0x80008000u) - (limit | (limit << 16));
}

// Bits 15 and 31 of four words as the 8 bits of elements 0 to 7.
__device__ inline uint32_t gather_pairs(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  constexpr uint32_t tops = 0x80008000u;
  const uint32_t spread = ((a & tops) >> 15) | ((b & tops) >> 13) | ((c & tops) >> 11) | ((d & tops) >> 9);
  return (spread | (spread >> 15)) & 0xffu;
}

// Adds the kPerVector<T> elements of `vector` as the bits from `at` on.
template <typename T>
__device__ inline void compare(const uint4& vector, const Limits<T>& limits, int at, LaneBits& bits) {
  if constexpr (sizeof(T) == 2) {
    bits.above |= gather_pairs(pair_at_least(vector.x, limits.high), pair_at_least(vector.y, limits.high),
                               pair_at_least(vector.z, limits.high), pair_at_least(vector.w, limits.high))
                  << at;
    bits.at_least |= gather_pairs(pair_at_least(vector.x, limits.low), pair_at_least(vector.y, limits.low),
                                  pair_at_least(vector.z, limits.low), pair_at_least(vector.w, limits.low))
                     << at;
    const uint32_t bad = pair_at_least(vector.x, limits.bad) | pair_at_least(vector.y, limits.bad) |
                         pair_at_least(vector.z, limits.bad) | pair_at_least(vector.w, limits.bad);
    bits.bad |= (bad & 0x80008000u) != 0;
  } else if constexpr (sizeof(T) == 4) {
    const uint32_t patterns[4] = {vector.x & 0x7fffffffu, vector.y & 0x7fffffffu, vector.z & 0x7fffffffu,
                                  vector.w & 0x7fffffffu};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (patterns[i] >= limits.high) bits.above |= 1u << (at + i);
      if (patterns[i] >= limits.low) bits.at_least |= 1u << (at + i);
      bits.bad |= patterns[i] >= limits.bad;
    }
  } else {
    const uint64_t patterns[2] = {vector.x | (static_cast<uint64_t>(vector.y & 0x7fffffffu) << 32),
                                  vector.z | (static_cast<uint64_t>(vector.w & 0x7fffffffu) << 32)};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (patterns[i] >= limits.high) bits.above |= 1u << (at + i);
      if (patterns[i] >= limits.low) bits.at_least |= 1u << (at + i);
      bits.bad |= patterns[i] >= limits.bad;
    }
  }
}

}  // namespace fgunlearn::cuda
