// SPD-GAN's shift of a batch, and its derivative, in one call each.
//
// 12 bytes per f32 element forward, 16 or 20 back (cpu/isa/spd_perturb.h), from memory once: with a norm, a sample is
// read again while it is still in the cache.
#pragma once

#include "core/executor.h"
#include "core/spd_perturb.h"

namespace fgunlearn::cpu {

// out: of x's dtype and size. norms[b], with a ball: the norm of sample b's eps * tanh(g) before it is scaled, as the
// backward pass wants it. Computed in f32, or f64 for f64, and rounded once; sums in double over parts of fixed size,
// in a fixed order, so the bits don't depend on the number of threads.
void spd_perturb(const Executor& executor, const SpdBatch& batch, const SpdRule& rule, void* out, void* norms);

// dx and dg from the gradient of out, each where it is not null; `norms` as spd_perturb gave them.
void spd_perturb_backward(const Executor& executor, const SpdBatch& batch, const SpdRule& rule, const void* grad,
                          const void* norms, void* dx, void* dg);

}  // namespace fgunlearn::cpu
