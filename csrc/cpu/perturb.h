// Perturbing the selected coordinates in one pass over them; nothing else is read, except by rms.
#pragma once

#include <cstdint>
#include <vector>

#include "core/executor.h"
#include "core/perturb.h"
#include "core/segment.h"

namespace fgunlearn::cpu {

// Segment::offset must be the global index of the tensor's first element: the noise is keyed by it. The result is
// computed in double and rounded once to the segment's dtype (f16, bf16: by way of f32, as torch converts).
void perturb(const Executor& executor, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
             const std::vector<Perturbation>& how, uint64_t seed, Stream stream);

// segments[t][i] += rate * grads[t][i] for the selected i, in the accumulation type of the segment's dtype.
void ascend(const Executor& executor, const std::vector<Segment>& segments, const std::vector<Segment>& grads,
            const std::vector<IndexList>& indices, double rate);

// out[t] = sqrt(mean(x^2)) of segment t, 0 for an empty one: one read. Summed in double, block by block in a fixed
// order, so the bits don't depend on the number of threads.
void rms(const Executor& executor, const std::vector<Segment>& segments, double* out);

}  // namespace fgunlearn::cpu
