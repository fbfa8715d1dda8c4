// SPD-GAN's shift of a batch, and its derivative: one launch each.
//
// Forward reads x and g and writes x~: 12 bytes per element for f32, 6 for f16 and bf16, 24 for f64. Back reads the
// gradient, x and g and writes dg (16 bytes for f32), or dx, or both (20). That is the floor, and what is moved without
// a norm. With one,
//   - samples of up to 4096 elements (2048 of f64) are held in the registers of a warp or a block between their sum and
//     its use: still the floor;
//   - larger ones are read twice, g alone on the way forward (16 bytes), all three on the way back (28), in tiles of
//     8 KiB whose second read follows the first closely enough to come from the L2 cache: samples of 3 x 224 x 224 on
//     132 multiprocessors have about 11 MB pass through it in between. The memory is then left with the floor. A sample
//     inside its ball is read once on the way back.
// Predicted from those bytes at 4.3 TB/s (an H200), not measured: 256 x 3 x 224 x 224 f32, 0.11 ms forward and 0.14 ms
// back without a norm. With one the same if the L2 cache gives the second reads at no less than the memory's speed
// beside it; 0.14 and 0.25 ms if it gives nothing. 256 x 3 x 32 x 32 moves 9 and 13 MB: 3 us and less, the launch is
// what takes time. Arithmetic: about 60 operations per element, division included, of the 82 that the H200 can issue
// in the time that 12 bytes take; f16 and bf16 with half the bytes wait for it, and reach about 0.7 of the bandwidth.
#pragma once

#include "core/spd_perturb.h"
#include "cuda/context.h"

namespace fgunlearn::cuda {

// out, norms: as the CPU's (cpu/spd_perturb.h), in device memory. Without a ball the bits are the CPU's, and so are the
// norms of linf; those of l2 differ in the order of their sum. That order does not depend on the number of
// multiprocessors, on timing, or on where the batch lies. One whose samples don't all begin at a multiple of 16 bytes
// is read element by element.
void spd_perturb(const Context& context, const SpdBatch& batch, const SpdRule& rule, void* out, void* norms);

// dx and dg from the gradient of out, each where it is not null; `norms` as spd_perturb gave them.
void spd_perturb_backward(const Context& context, const SpdBatch& batch, const SpdRule& rule, const void* grad,
                          const void* norms, void* dx, void* dg);

}  // namespace fgunlearn::cuda
