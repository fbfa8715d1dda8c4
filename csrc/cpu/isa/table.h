// The inner loops that are compiled once per instruction set, behind one table of function pointers.
//
// Only these loops are built with AVX flags, and the headers under isa/ that they include define nothing outside the
// namespace FGU_ISA: a symbol shared with portable code could otherwise be linked in its AVX version and stop an older
// processor with an illegal instruction.
#pragma once

#include <cstdint>

#include "core/dtype.h"
#include "core/perturb.h"
#include "core/score.h"
#include "core/spd_perturb.h"

namespace fgunlearn::cpu {

constexpr int64_t kWordBits = 64;
constexpr int64_t kBlock = int64_t{1} << 16;  // elements of one work item: 256 KiB of f32, within L2

constexpr int64_t kHistogramCopies = 4;  // of a histogram's counters, by position modulo 4

struct Classified {
  int64_t above = 0;     // keys >= high
  int64_t between = 0;   // low <= key < high
  uint64_t largest = 0;  // largest key seen; above infinity when there is a NaN
};

// Sums over a part of one sample, for the pull of its ball.
struct SpdSums {
  double product = 0.0;  // <tanh(g), what the clamp lets through of the gradient>
  int64_t ties = 0;      // elements at the norm: linf
};

// Kernel table. Every pointer is set in every table.
struct Isa {
  const char* name;

  // select: bit i of above[i / 64] says x[i] has a key >= high, likewise between. Writes ceil(n / 64) words of each.
  using Classify = Classified (*)(const void* x, int64_t n, uint64_t low, uint64_t high, uint64_t* above,
                                  uint64_t* between);
  Classify classify_key32[4];  // by DType; f64 has no 32-bit key: null
  Classify classify_key64[4];
  // bracket: ++counts[i % kHistogramCopies][slot of x[i]] for the keys >= low; slots as KeyBins of core/bracket.h has
  // them. By DType, as classify.
  using Histogram = void (*)(const void* x, int64_t n, uint64_t low, int32_t shift, uint32_t bins,
                             uint32_t* const* counts);
  Histogram histogram_key32[4];
  Histogram histogram_key64[4];
  // Random-k: 64 random words for each of `groups` groups from `first_group` on (philox_word of core/philox.h).
  void (*random_words)(uint64_t seed, uint32_t stream, int64_t first_group, int64_t groups, uint32_t* out);

  // score: s += w * f(g) over n contiguous elements; s is float, or double for gradients of type f64. By DType of g.
  void (*accumulate[4])(void* score, const void* grad, int64_t n, double weight, ScoreKind kind);
  int64_t (*count_nonfinite[4])(const void* x, int64_t n);

  // perturb: out[j] = the normal or uniform draw at global index first + index[j].
  void (*draw)(Draw kind, uint64_t seed, uint32_t stream, int64_t first, const int64_t* index, int64_t n, double* out);

  // spd_perturb, over n contiguous elements of one sample, by DType: x~; the sum of tanh(g)^2 and the largest |tanh(g)|
  // (NaN where there is one); what the pull takes; dx and dg, each where it is not null. Those that sum leave tanh(g)
  // in `keep`, where the result will be, for the call that follows with `kept` (f32 and f64; others compute it anew).
  void (*shift[4])(const void* x, const void* g, void* out, int64_t n, const Shift<double>& shift, bool kept);
  double (*sum_of_squared_tanh[4])(const void* g, int64_t n, void* keep);
  double (*largest_tanh[4])(const void* g, int64_t n, void* keep);
  SpdSums (*pull_sums[4])(const void* x, const void* g, const void* grad, int64_t n, const Shift<double>& shift,
                          double norm, void* keep);
  void (*shift_backward[4])(const void* x, const void* g, const void* grad, void* dx, void* dg, int64_t n,
                            const Shift<double>& shift, const Pull<double>& pull, Ball ball, bool kept);
};

// The best table for this processor, or the one that FGUNLEARN_SIMD names ("scalar", "avx2", "avx512"), read once
// when the library is loaded. A name that this build or processor lacks gives the best one.
const Isa& isa();

namespace scalar {
extern const Isa table;
}
#if defined(FGU_X86)
namespace avx2 {
extern const Isa table;
}
namespace avx512 {
extern const Isa table;
}
#endif

}  // namespace fgunlearn::cpu
