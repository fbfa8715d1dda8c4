// The passes from which an exact top-k is found when the keys are never all at hand, on CUDA. Keys: core/select.h. How
// the keys are read and laid out in tiles: select_plan.h, select_sources.h.
//
// Histogram: floor, one read of the keys; 1e9 of f32 are 0.93 ms at an H200's measured copy bandwidth of 4.3 TB/s. A
// vector of 16 bytes in which no lane of the warp has a key to count costs some 14 instructions, so that counting the
// last percent is the read. A key that is counted costs about 20 more and an atomic addition in shared memory, where 32
// random bins meet in 3 to 4 turns: counting all of 1e9 keys takes 0.7 ms of instructions and 0.5 ms of additions on
// 132 multiprocessors at 1.7 GHz, beside the read; 1.0 to 1.5 times the read in all. Beyond 8,192 bins the additions go
// to global memory, about 100 per nanosecond: 10 times the read for all keys, and nothing to speak of for a percent.
// Split: the one read and n/4 bytes of bits written, as a selection's pass (select_classify.h); n/8 bytes of them read
// again for each of the two lists (where a tile has any), and the indices written: 1.2 times the read of f32 keys.
// (Predictions.)
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/segment.h"
#include "cuda/context.h"
#include "cuda/select.h"

namespace fgunlearn::cuda {

// Enqueues counting keys in equal bins (core/bracket.h) into out[0, bins + 2): 63-bit keys where `wide`, else 31-bit
// ones, and then no segment may be f64. Segments must be contiguous. Doesn't wait.
void bracket_histogram(const Context& context, const std::vector<Segment>& segments, int64_t low, int64_t shift,
                       int64_t bins, bool wide, int64_t* out);

// The keys >= high, and those of [low, high); keys as for bracket_histogram. There are no thresholds. Waits once for
// the stream, for the counts that the outputs' sizes need.
std::pair<Selected, Selected> bracket_split(const Context& context, const std::vector<Segment>& segments, int64_t low,
                                            int64_t high, bool wide);

}  // namespace fgunlearn::cuda
