// The histogram's inner loop: keys below `low` are passed over 64 at a time, the others counted one by one.
#pragma once

#include <type_traits>

#include "core/bracket.h"
#include "cpu/isa/select.h"
#include "cpu/isa/table.h"

namespace fgunlearn::cpu::FGU_ISA {

template <typename T, typename Key>
void histogram(const void* data, int64_t n, uint64_t low, int32_t shift, uint32_t bin_count, uint32_t* const* counts) {
  static_assert(kHistogramCopies == 4);
  const T* x = static_cast<const T*>(data);
  const KeyBins<Key> bins{static_cast<Key>(low), shift, bin_count};
  int64_t i = 0;
#if defined(__AVX2__)
  if constexpr ((sizeof(T) == 8) == (sizeof(Key) == 8)) {  // as in classify
    using Keys = std::conditional_t<sizeof(Key) == 8, Keys64, Keys32>;
    constexpr int vectors = kWordBits / Keys::lanes;
    uint32_t* const count0 = counts[0];
    uint32_t* const count1 = counts[1];
    uint32_t* const count2 = counts[2];
    uint32_t* const count3 = counts[3];
    for (; i + kWordBits <= n; i += kWordBits) {
      uint64_t counted = 0;
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) {
        counted |= Keys::at_least(Keys::load(x + i + v * Keys::lanes), bins.low) << (v * Keys::lanes);
      }
      if (counted == 0) continue;
      alignas(64) Key keys[kWordBits];
#pragma GCC unroll 16
      for (int v = 0; v < vectors; ++v) Keys::store(keys + v * Keys::lanes, Keys::load(x + i + v * Keys::lanes));
      if (counted == ~uint64_t{0}) {
        alignas(64) uint32_t slots[kWordBits];
        for (int64_t j = 0; j < kWordBits; ++j) slots[j] = bins.slot(keys[j]);
        for (int64_t j = 0; j < kWordBits; j += 4) {
          ++count0[slots[j]];
          ++count1[slots[j + 1]];
          ++count2[slots[j + 2]];
          ++count3[slots[j + 3]];
        }
      } else {
        for (uint64_t left = counted; left != 0; left &= left - 1) {
          const int j = __builtin_ctzll(left);
          ++counts[j % kHistogramCopies][bins.slot(keys[j])];
        }
      }
    }
  }
#endif
  for (; i < n; ++i) {
    const Key key = key_of<Key>(x[i]);
    if (key >= bins.low) ++counts[i % kHistogramCopies][bins.slot(key)];
  }
}

}  // namespace fgunlearn::cpu::FGU_ISA
