// Optimizer steps on the selected coordinates. Each reads k indices, gradients, parameters and states and writes k
// parameters and states. With k/n at 1% nearly every access to a gradient or parameter is a cache line of its own, so
// the floor is about 2k lines of 64 bytes read and k written, not n of anything; states are contiguous.
#pragma once

#include <vector>

#include "core/executor.h"
#include "core/segment.h"
#include "core/update.h"

namespace fgunlearn::cpu {

// grads[t] has the dtype of params[t], and its shape, or (options.gathered) one value per index, contiguous.
// buffers[t] is contiguous, f32 (f64 for f64 parameters), one value per index; empty list without momentum. first[t]
// says that the buffer holds nothing yet. steps[t] turns the rounding; empty list unless options.stochastic.
void sgd(const Executor& executor, const std::vector<Segment>& params, const std::vector<Segment>& grads,
         const std::vector<IndexList>& indices, const std::vector<Segment>& buffers, const std::vector<int64_t>& first,
         const std::vector<Number>& steps, const Sgd& sgd, const StepOptions& options);

// first_moments, second_moments and (amsgrad; else empty) largest are as buffers; steps[t] counts this step, from 1.
void adam(const Executor& executor, const std::vector<Segment>& params, const std::vector<Segment>& grads,
          const std::vector<IndexList>& indices, const std::vector<Segment>& first_moments,
          const std::vector<Segment>& second_moments, const std::vector<Segment>& largest,
          const std::vector<Number>& steps, const Adam& adam, const StepOptions& options);

}  // namespace fgunlearn::cpu
