// theta with a delta added on the selected coordinates: one copy of theta (8 bytes per f32 element), then k updates.
#pragma once

#include "core/executor.h"
#include "core/segment.h"

namespace fgunlearn::cpu {

// out is a contiguous copy of theta already; delta has theta's dtype or f32, and index.count elements.
void sparse_add(const Executor& executor, const Segment& out, const IndexList& index, const Segment& delta);

}  // namespace fgunlearn::cpu
