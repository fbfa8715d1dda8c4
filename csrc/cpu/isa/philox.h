// Ten rounds of Philox4x32 on sixteen counters side by side: the lanes are independent, and the loops over them are
// what the compiler turns into vector instructions.
#pragma once

#include "core/philox.h"

namespace fgunlearn::cpu::FGU_ISA {

constexpr int kLanes = static_cast<int>(kPhiloxLanes);

struct PhiloxLanes {
  alignas(64) uint32_t word[4][kLanes];

  // Word 0 and 1 hold the counters' low and high halves; replaces all four by random words.
  inline __attribute__((always_inline)) void scramble(uint64_t seed, uint32_t stream) {
    uint32_t* __restrict c0 = word[0];
    uint32_t* __restrict c1 = word[1];
    uint32_t* __restrict c2 = word[2];
    uint32_t* __restrict c3 = word[3];
    for (int l = 0; l < kLanes; ++l) {
      c2[l] = stream;
      c3[l] = 0;
    }
    uint32_t k0 = static_cast<uint32_t>(seed);
    uint32_t k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < philox::kRounds; ++round) {
      for (int l = 0; l < kLanes; ++l) {
        const uint64_t p0 = static_cast<uint64_t>(philox::kMul0) * c0[l];
        const uint64_t p1 = static_cast<uint64_t>(philox::kMul1) * c2[l];
        c0[l] = static_cast<uint32_t>(p1 >> 32) ^ c1[l] ^ k0;
        c2[l] = static_cast<uint32_t>(p0 >> 32) ^ c3[l] ^ k1;
        c1[l] = static_cast<uint32_t>(p1);
        c3[l] = static_cast<uint32_t>(p0);
      }
      k0 += philox::kWeyl0;
      k1 += philox::kWeyl1;
    }
  }
};

}  // namespace fgunlearn::cpu::FGU_ISA
