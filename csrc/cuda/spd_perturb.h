// SPD-GAN's shift of a batch, and its derivative.
#pragma once

#include "core/spd_perturb.h"
#include "cuda/context.h"

namespace fgunlearn::cuda {

void spd_perturb(const Context& context, const SpdBatch& batch, const SpdRule& rule, void* out, void* norms);

void spd_perturb_backward(const Context& context, const SpdBatch& batch, const SpdRule& rule, const void* grad,
                          const void* norms, void* dx, void* dg);

}  // namespace fgunlearn::cuda
