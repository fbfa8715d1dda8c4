// The noise's inner loop: Philox with the global index as counter, and Box-Muller, sixteen lanes side by side.
//
// Nothing is read but the indices.
#pragma once

#include "core/perturb.h"
#include "cpu/isa/philox.h"
#include "cpu/isa/table.h"

namespace fgunlearn::cpu::FGU_ISA {

// out[j] = the draw at global index first + index[j], for j in [0, n).
inline void draw(Draw kind, uint64_t seed, uint32_t stream, int64_t first, const int64_t* index, int64_t n,
                 double* out) {
  PhiloxLanes random{};
  for (int64_t begin = 0; begin < n; begin += kLanes) {
    const int count = n - begin < kLanes ? static_cast<int>(n - begin) : kLanes;
    for (int l = 0; l < count; ++l) {  // lanes past the end keep what they held, and nobody reads them
      const uint64_t global = static_cast<uint64_t>(first + index[begin + l]);
      random.word[0][l] = static_cast<uint32_t>(global);
      random.word[1][l] = static_cast<uint32_t>(global >> 32);
    }
    random.scramble(seed, stream);
    double drawn[kLanes];
    if (kind == Draw::normal) {
      for (int l = 0; l < kLanes; ++l) drawn[l] = cos_turn(random.word[1][l]);
      for (int l = 0; l < kLanes; ++l) drawn[l] *= std::sqrt(-2.0 * log_uniform(random.word[0][l]));
    } else {
      for (int l = 0; l < kLanes; ++l) drawn[l] = uniform_of(random.word[0][l]);
    }
    for (int l = 0; l < count; ++l) out[begin + l] = drawn[l];
  }
}

}  // namespace fgunlearn::cpu::FGU_ISA
