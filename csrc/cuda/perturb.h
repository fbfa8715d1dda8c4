// Perturbing the selected coordinates in one launch; nothing else is read, except by rms.
//
// perturb moves an index (4 bytes) and the 32-byte sector of the coordinate each way: 68 bytes. ascend reads the
// gradient's sector too: 100 bytes. That is the floor where no two coordinates share a sector, as at small k/n; the
// noise reads nothing, and its arithmetic, about a hundred operations in double, hides behind the memory where a
// multiprocessor has 32 or 64 units for it. Predicted from those bytes at 4.3 TB/s (an H200), not measured: n = 1e8
// f32, k = 1%, 0.02 ms each. rms reads each element once, 4 bytes for f32, which is the floor. Predicted alike: n = 1e8
// in 0.09 ms.
#pragma once

#include <cstdint>
#include <vector>

#include "core/perturb.h"
#include "core/segment.h"
#include "cuda/context.h"

namespace fgunlearn::cuda {

// Segment::offset must be the global index of the tensor's first element: the noise is keyed by it. The result is
// computed in double and rounded once to the segment's dtype (f16, bf16: by way of f32, as torch converts). The bits
// are the CPU's.
void perturb(const Context& context, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
             const std::vector<Perturbation>& how, uint64_t seed, Stream stream);

// segments[t][i] += rate * grads[t][i] for the selected i, in the accumulation type of the segment's dtype.
void ascend(const Context& context, const std::vector<Segment>& segments, const std::vector<Segment>& grads,
            const std::vector<IndexList>& indices, double rate);

// out[t], in device memory: sqrt(mean(x^2)) of segment t, 0 for an empty one; contiguous segments. Summed in double in
// an order that only the sizes decide: the bits depend neither on the number of multiprocessors nor on who comes first,
// nor on where the tensor lies. One that does not begin at a multiple of 16 bytes is read element by element.
void rms(const Context& context, const std::vector<Segment>& segments, double* out);

}  // namespace fgunlearn::cuda
