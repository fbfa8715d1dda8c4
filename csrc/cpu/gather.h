// Reading and writing the selected coordinates: k indices and k values each way, at the speed of k random accesses.
#pragma once

#include <vector>

#include "core/executor.h"
#include "core/segment.h"

namespace fgunlearn::cpu {

// values[t][j] = segments[t][indices[t][j]], bit for bit; values[t] has the dtype of segments[t] and is contiguous.
void gather(const Executor& executor, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
            const std::vector<Segment>& values);

// segments[t][indices[t][j]] = values[t][j], bit for bit.
void scatter(const Executor& executor, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
             const std::vector<Segment>& values);

}  // namespace fgunlearn::cpu
