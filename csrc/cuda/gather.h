// Reading and writing the selected coordinates. Floor: k indices and k values, contiguous, and k elements of the tensor
// in 32-byte sectors: for f32 at small k/n 4 + 4 + 32 bytes each way.
#pragma once

#include <vector>

#include "core/segment.h"
#include "cuda/context.h"

namespace fgunlearn::cuda {

// values[t][j] = segments[t][indices[t][j]], bit for bit; values[t] has the dtype of segments[t] and is contiguous.
void gather(const Context& context, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
            const std::vector<Segment>& values);

// segments[t][indices[t][j]] = values[t][j], bit for bit.
void scatter(const Context& context, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
             const std::vector<Segment>& values);

}  // namespace fgunlearn::cuda
