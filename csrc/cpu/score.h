// Score accumulation over a list of tensors: one pass, 12 bytes per f32 element (isa/score.h).
#pragma once

#include <cstdint>
#include <vector>

#include "core/executor.h"
#include "core/score.h"
#include "core/segment.h"

namespace fgunlearn::cpu {

// score[t] += weight * f(grad[t]); same sizes, contiguous. score is f32, or f64 where grad is.
void accumulate_scores(const Executor& executor, const std::vector<Segment>& scores, const std::vector<Segment>& grads,
                       ScoreKind kind, double weight);

// counts[t] = the number of NaN and infinite elements of segment t; contiguous segments.
void count_nonfinite(const Executor& executor, const std::vector<Segment>& segments, int64_t* counts);

}  // namespace fgunlearn::cpu
