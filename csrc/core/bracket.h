// Bins of keys, shared by host and device. Keys: core/select.h.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/select.h"

namespace fgunlearn {

// Equal bins of 2^shift keys from `low` on: slot b < bins counts those whose (key - low) >> shift is b, slot `bins` the
// keys beyond them, and slot bins + 1 the NaN, which are counted nowhere else. Keys below `low` are not counted.
template <typename Key>
struct KeyBins {
  Key low;  // at most infinity + 1, so that every NaN is counted
  int32_t shift;
  uint32_t bins;

  // Of a key >= low.
  FGU_HOST_DEVICE uint32_t slot(Key key) const {
    const Key bin = static_cast<Key>(key - low) >> shift;
    const uint32_t counted = bin < bins ? static_cast<uint32_t>(bin) : bins;
    return key > KeyTraits<Key>::infinity ? bins + 1u : counted;
  }
};

constexpr int64_t kMaxBins = int64_t{1} << 16;

// `low` may be any number >= 0, and `shift` in [0, 62]: what lies beyond Key's range is cut to it.
template <typename Key>
KeyBins<Key> key_bins(int64_t low, int64_t shift, int64_t bins) {
  constexpr auto nan = static_cast<uint64_t>(KeyTraits<Key>::infinity) + 1u;
  return {static_cast<Key>(std::min(static_cast<uint64_t>(low), nan)),
          static_cast<int32_t>(std::min<int64_t>(shift, static_cast<int64_t>(sizeof(Key)) * 8 - 1)),
          static_cast<uint32_t>(bins)};
}

// A bracket given from outside, cut to Key's range.
template <typename Key>
Bracket<Key> key_bracket(int64_t low, int64_t high) {
  constexpr uint64_t above_all = KeyTraits<Key>::above_all;
  return {static_cast<Key>(std::min(static_cast<uint64_t>(low), above_all)),
          static_cast<Key>(std::min(static_cast<uint64_t>(high), above_all))};
}

}  // namespace fgunlearn
