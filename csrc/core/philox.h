// Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011), host and device.
// Every number fgunlearn draws is a pure function of (seed, stream, global index, and for repeated draws the turn):
// threads, devices and sharding cannot change it.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace fgunlearn {

// The third counter word. Two uses of one seed never share random bits.
enum class Stream : uint32_t {
  select_high = 0,  // high 31 bits of a Random-k key
  select_low = 1,   // low 32 bits of a Random-k key
  gaussian = 2,     // Gaussian perturbation
  reset = 3,        // redraw from the initial distribution
  rounding = 4,     // stochastic rounding of an optimizer's step
};

struct Philox4 {
  uint32_t word[4];
};

namespace philox {
constexpr uint32_t kMul0 = 0xD2511F53u;
constexpr uint32_t kMul1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u;
constexpr uint32_t kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;
}  // namespace philox

// `turn` is the fourth counter word, for draws that are repeated at the same counter.
FGU_HOST_DEVICE Philox4 philox4x32(uint64_t seed, Stream stream, uint64_t counter, uint32_t turn = 0) {
  uint32_t c0 = static_cast<uint32_t>(counter);
  uint32_t c1 = static_cast<uint32_t>(counter >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream);
  uint32_t c3 = turn;
  uint32_t k0 = static_cast<uint32_t>(seed);
  uint32_t k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < philox::kRounds; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(philox::kMul0) * c0;
    const uint64_t p1 = static_cast<uint64_t>(philox::kMul1) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += philox::kWeyl0;
    k1 += philox::kWeyl1;
  }
  return Philox4{{c0, c1, c2, c3}};
}

// Random-k's layout of words to indices. Sixteen counters side by side serve 64 consecutive indices, word after word,
// so that vector lanes and warps write what they computed without a transpose. It is a bijection, nothing more.
constexpr int64_t kPhiloxGroup = 64;  // indices per group
constexpr int64_t kPhiloxLanes = 16;  // counters per group

FGU_HOST_DEVICE uint32_t philox_word(uint64_t seed, Stream stream, int64_t index) {
  const uint64_t i = static_cast<uint64_t>(index);
  const Philox4 out = philox4x32(seed, stream, (i >> 6) * kPhiloxLanes + (i & 15));
  // Selects, not an index: a run-time index would put the words into a GPU's local memory.
  const uint32_t low = (i & 16) != 0 ? out.word[1] : out.word[0];
  const uint32_t high = (i & 16) != 0 ? out.word[3] : out.word[2];
  return (i & 32) != 0 ? high : low;
}

}  // namespace fgunlearn
