// Optimizer steps on the selected coordinates: as csrc/cpu/update.h says, on a stream. Floor at small k/n, f32: 4 bytes
// of index, 32-byte sectors of gradient and parameter read and of parameter written, and 8 bytes per state. Nothing is
// read back, so a step can be captured into a CUDA graph; with step counts and learning rate in device memory a replay
// follows them.
#pragma once

#include <vector>

#include "core/segment.h"
#include "core/update.h"
#include "cuda/context.h"

namespace fgunlearn::cuda {

void sgd(const Context& context, const std::vector<Segment>& params, const std::vector<Segment>& grads,
         const std::vector<IndexList>& indices, const std::vector<Segment>& buffers, const std::vector<int64_t>& first,
         const std::vector<Number>& steps, const Sgd& sgd, const StepOptions& options);

void adam(const Context& context, const std::vector<Segment>& params, const std::vector<Segment>& grads,
          const std::vector<IndexList>& indices, const std::vector<Segment>& first_moments,
          const std::vector<Segment>& second_moments, const std::vector<Segment>& largest,
          const std::vector<Number>& steps, const Adam& adam, const StepOptions& options);

}  // namespace fgunlearn::cuda
