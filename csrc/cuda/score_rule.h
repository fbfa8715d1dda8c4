// What one batch's gradient does to the score of one element, for the plain pass and for the one fused with a
// selection.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "core/score.h"

namespace fgunlearn::cuda {

__device__ inline float magnitude(float x) { return fabsf(x); }
__device__ inline double magnitude(double x) { return fabs(x); }

// score + weight * f(grad): the product rounded, then the sum, so that the bits are the CPU's.
template <typename S>
__device__ inline S scored(S score, S grad, ScoreKind kind, S weight) {
  const S value = kind == ScoreKind::grad ? grad : kind == ScoreKind::abs_grad ? magnitude(grad) : grad * grad;
  return score + weight * value;
}

}  // namespace fgunlearn::cuda
