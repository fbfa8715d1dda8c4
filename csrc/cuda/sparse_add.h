// theta with a delta added on the selected coordinates: one copy of theta (8 bytes per f32 element), made by the
// caller, then k updates.
//
// An update moves an index (4 bytes), a delta (4) and the 32-byte sector of the coordinate each way: 72 bytes. That is
// the floor where no two coordinates share a sector, as at small k/n; it counts the selected coordinates only.
// Predicted from those bytes at 4.3 TB/s (an H200), not measured: n = 1e8 f32, k = 1%, 0.02 ms beside the copy's 0.19
// ms.
#pragma once

#include "core/segment.h"
#include "cuda/context.h"

namespace fgunlearn::cuda {

// out is a contiguous copy of theta already; delta has theta's dtype or f32, and index.count elements.
void sparse_add(const Context& context, const Segment& out, const IndexList& index, const Segment& delta);

}  // namespace fgunlearn::cuda
