// Score accumulation over a list of tensors, and the counting of what has no place in a score: one pass each.
//
// accumulate_scores reads g and s and writes s: 12 bytes per element for f32, 10 for f16 and bf16 gradients, 24 for
// f64. That is the floor: each of the three is needed, and nothing is touched twice. Predicted from those bytes at 4.3
// TB/s (an H200), not measured: n = 1e8 f32 in 0.28 ms. The counts read each element once, 4 bytes for f32: predicted
// alike, n = 1e8 in 0.09 ms.
#pragma once

#include <cstdint>
#include <vector>

#include "core/score.h"
#include "core/segment.h"
#include "cuda/context.h"

namespace fgunlearn::cuda {

// score[t] += weight * f(grad[t]); same sizes, contiguous. score is f32, or f64 where grad is. The bits are the CPU's.
// Vectors are used where score and grad reach a multiple of 16 bytes together; elsewhere single elements, a warp's side
// by side.
void accumulate_scores(const Context& context, const std::vector<Segment>& scores, const std::vector<Segment>& grads,
                       ScoreKind kind, double weight);

// counts[t], in device memory: the number of NaN and infinite elements of segment t; contiguous segments.
void count_nonfinite(const Context& context, const std::vector<Segment>& segments, int64_t* counts);

// The same, of NaN only.
void count_nan(const Context& context, const std::vector<Segment>& segments, int64_t* counts);

}  // namespace fgunlearn::cuda
