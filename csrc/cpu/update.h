// Optimizer steps on the selected coordinates. SGD with momentum reads k indices, gradients, parameters and buffers and
// writes k parameters and buffers; with k/n at 1% nearly every access is a cache line of its own, so the floor is
// about 2k lines of 64 bytes read and k written, not n of anything.
#pragma once

#include <vector>

#include "core/executor.h"
#include "core/segment.h"
#include "core/update.h"

namespace fgunlearn::cpu {

// buffers[t] is contiguous, f32 (f64 for f64 parameters), one value per index; empty list without momentum.
void sgd(const Executor& executor, const std::vector<Segment>& params, const std::vector<Segment>& grads,
         const std::vector<IndexList>& indices, const std::vector<Segment>& buffers, const std::vector<int64_t>& first,
         const Sgd& rule);

}  // namespace fgunlearn::cpu
