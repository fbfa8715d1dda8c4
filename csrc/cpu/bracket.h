// The passes from which an exact top-k is found when the keys are never all at hand, on the CPU. Keys: core/select.h.
//
// Histogram: floor, one read of the keys (4 bytes each for f32); nothing is written but counters that stay in a core's
// caches. Keys below `low` cost the compare of a selection's pass, 8 vector compares for 64 keys. A key that is counted
// costs about 2 cycles more (its slot, a load and a store), so that counting all of 1e8 keys should take 2 to 3 times
// the read on two cores, and counting 1% of them 1.1 times. Neighbouring keys of one bin would wait for each other's
// store, some 5 cycles each: up to 2,048 bins there are four sets of counters (32 KiB), which take turns.
// Split: one read of the keys, n/4 bytes of bits written and read once, and the indices written. (Predictions.)
// Measured (benchmarks/results/bracket.json), over x.sum(): all keys 3.2, equal or not; the last 1% 1.45; a split 2.1.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "core/executor.h"
#include "core/segment.h"
#include "cpu/select.h"

namespace fgunlearn::cpu {

// Counts keys in equal bins (core/bracket.h) into out[0, bins + 2): 63-bit keys where `wide`, else 31-bit ones, and
// then no segment may be f64. Segments must be contiguous.
void bracket_histogram(const Executor& executor, const std::vector<Segment>& segments, int64_t low, int64_t shift,
                       int64_t bins, bool wide, int64_t* out);

// The keys >= high, and those of [low, high); keys as for bracket_histogram. Thresholds mean nothing.
std::pair<Selected, Selected> bracket_split(const Executor& executor, const std::vector<Segment>& segments, int64_t low,
                                            int64_t high, bool wide);

}  // namespace fgunlearn::cpu
