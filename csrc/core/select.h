// Selection's rules, shared by host and device: what a key is, and which interval to keep exactly.
//
// A key is the bit pattern of |x| read as an unsigned integer. For IEEE numbers that order is the order of the
// magnitudes: zeros of both signs are 0, subnormals come before normals, infinity comes last, and a NaN is above it.
// Lists without f64 use 32-bit keys (f16 and bf16 widen to f32 exactly); a list with f64 uses the bits of |double(x)|.
// The k largest keys win; among equal keys the smallest global index wins.
#pragma once

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "core/dtype.h"
#include "core/philox.h"

namespace fgunlearn {

// Keys that have no place in an order, or that a caller does not want there: thrown by selections of both devices.
struct BadKeys : std::runtime_error {
  BadKeys(int64_t segment_, int64_t count_, const char* what_)
      : std::runtime_error("tensor " + std::to_string(segment_) + " holds " + std::to_string(count_) + " " + what_),
        segment(segment_),
        count(count_),
        what_they_are(what_) {}
  int64_t segment;
  int64_t count;
  const char* what_they_are;  // "NaN", or "NaN or infinite values"
};

// Where a packed selection goes, in the device's memory: `indices` has room for the sum of k int32, or int64 where
// `wide`, the segments' indices one after another; offsets[t] is where those of segment t begin, offsets[segments]
// their number; one threshold, or one per segment.
struct Packed {
  bool wide;
  void* indices;
  int64_t* offsets;
  double* thresholds;
};

template <typename Key>
struct KeyTraits;

template <>
struct KeyTraits<uint32_t> {
  static constexpr uint32_t infinity = 0x7f800000u;
  static constexpr uint32_t above_all = 0x80000000u;  // no key reaches this
};
template <>
struct KeyTraits<uint64_t> {
  static constexpr uint64_t infinity = 0x7ff0000000000000ull;
  static constexpr uint64_t above_all = 0x8000000000000000ull;
};

FGU_HOST_DEVICE uint32_t key32(float x) { return bits::cast<uint32_t>(x) & 0x7fffffffu; }
FGU_HOST_DEVICE uint32_t key32(bf16_t x) { return static_cast<uint32_t>(x.bits & 0x7fffu) << 16; }
FGU_HOST_DEVICE uint32_t key32(f16_t x) { return key32(to_f32(x)); }
FGU_HOST_DEVICE uint64_t key64(double x) { return bits::cast<uint64_t>(x) & 0x7fffffffffffffffull; }

// The key of double(x) for a float's key, by integer arithmetic: float subnormals become normal doubles.
FGU_HOST_DEVICE uint64_t widen_key(uint32_t key) {
  if (key >= 0x7f800000u) return 0x7ff0000000000000ull | (static_cast<uint64_t>(key & 0x7fffffu) << 29);
  if (key >= 0x800000u) return (static_cast<uint64_t>(key) << 29) + (static_cast<uint64_t>(896) << 52);
  if (key == 0) return 0;
  int shift = 0;
  while ((key & 0x800000u) == 0) {
    key <<= 1;
    ++shift;
  }
  return (static_cast<uint64_t>(897 - shift) << 52) | (static_cast<uint64_t>(key & 0x7fffffu) << 29);
}

template <typename Key, typename T>
FGU_HOST_DEVICE Key key_of(T x) {
  if constexpr (sizeof(Key) == 4) {
    return key32(x);
  } else if constexpr (sizeof(T) == 8) {
    return key64(x);
  } else {
    return widen_key(key32(x));
  }
}

FGU_HOST_DEVICE double key_value(uint32_t key) { return static_cast<double>(bits::cast<float>(key)); }
FGU_HOST_DEVICE double key_value(uint64_t key) { return bits::cast<double>(key); }

// Keys >= high are selected for certain, keys < low are not; those between are kept and ranked exactly.
template <typename Key>
struct Bracket {
  Key low = 0;
  Key high = KeyTraits<Key>::above_all;
};

// Ranks (0 = largest) in a sample of m keys between which the k-th largest of n lies, with 4 standard deviations of a
// binomial to each side.
struct SampleRanks {
  int64_t high;  // < 0: take everything above
  int64_t low;   // >= m: take everything below
};

inline SampleRanks sample_ranks(int64_t n, int64_t k, int64_t m) {
  const double p = static_cast<double>(k) / static_cast<double>(n);
  const double centre = p * static_cast<double>(m);
  const double spread = 4.0 * std::sqrt(centre * (1.0 - p)) + 2.0;
  return {static_cast<int64_t>(std::floor(centre - spread)), static_cast<int64_t>(std::ceil(centre + spread))};
}

// Random-k's keys are 63 random bits, high part first: uniform, so the bracket is known without a sample.
FGU_HOST_DEVICE uint64_t random_key(uint64_t seed, int64_t index) {
  const uint64_t high = philox_word(seed, Stream::select_high, index) & 0x7fffffffu;
  return (high << 32) | philox_word(seed, Stream::select_low, index);
}

// `sigmas` standard deviations to each side of where the k-th largest of n uniform 31-bit keys is expected.
inline Bracket<uint32_t> random_bracket(int64_t n, int64_t k, double sigmas) {
  const double range = 2147483648.0;
  const double p = static_cast<double>(k) / static_cast<double>(n);
  const double spread = sigmas * std::sqrt(p * (1.0 - p) / static_cast<double>(n)) * range + 1.0;
  const double low = (1.0 - p) * range - spread;
  const double high = (1.0 - p) * range + spread;
  Bracket<uint32_t> bracket;
  bracket.low = low <= 0.0 ? 0u : static_cast<uint32_t>(low);
  bracket.high = high >= range ? KeyTraits<uint32_t>::above_all : static_cast<uint32_t>(high);
  return bracket;
}

}  // namespace fgunlearn
