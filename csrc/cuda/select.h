// Exact selection of k coordinates over a list of tensors, on CUDA. Rules and key order: core/select.h. How it is done,
// and what it costs: select_plan.h, select_classify.h, select_radix.h, select_write.h.
//
// 18 launches for 32-bit keys, and 14 more where a sample misled; beyond some 500 tensors one more for every 500, for
// the table that describes them. Workspace: n/4 bytes of bits, 40 bytes per 8,192 keys, and for each candidate a key
// and 2 bytes, with room for twice as many as are expected: 0.6% of the keys at k = 1%.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/score.h"
#include "core/segment.h"
#include "core/select.h"
#include "cuda/context.h"

namespace fgunlearn::cuda {

struct Output;

// What a selection found, before its indices are written: the interface of both devices. Its workspace belongs to the
// context's caller, who must write before giving it back.
class Selected {
 public:
  using Write = std::function<void(const Context&, const std::vector<Output>&)>;

  Selected(std::vector<int64_t> counts, std::vector<double> thresholds, Write write);

  const std::vector<int64_t>& counts() const { return counts_; }         // per segment
  const std::vector<double>& thresholds() const { return thresholds_; }  // one, or one per segment

  // Enqueues writing the indices of every segment in ascending order: to out[t] as int64 where wide[t], else as int32.
  void write(const Context& context, const std::vector<bool>& wide, const std::vector<void*>& out) const;

 private:
  std::vector<int64_t> counts_;
  std::vector<double> thresholds_;
  Write write_;
};

// The k largest |x|; ties at the border go to the smallest global index. Segments must be contiguous. Waits once for
// the stream, for the counts that the outputs' sizes need, and again where a sample misled. Throws BadKeys.
// `exhaustive` finds the threshold by radix histograms over all keys, without a sample.
Selected top_k(const Context& context, const std::vector<Segment>& segments, int64_t k, bool exhaustive);

// k[t] of segment t alone, all in the same launches. Waits as top_k does.
Selected top_k_each(const Context& context, const std::vector<Segment>& segments, const std::vector<int64_t>& k);

// A uniform k-subset: the k largest Philox keys of (seed, global index), of those outside `base`, united with it. Only
// numel and offset of a segment are read. Waits once, with a probability of 2e-9 twice.
Selected random_k(const Context& context, const std::vector<Segment>& segments, int64_t k, uint64_t seed,
                  const std::vector<IndexList>* base);

// top_k without waiting: all of it is enqueued, and can be captured into a CUDA graph. A NaN among the keys can't be
// reported: it makes the threshold NaN, and the indices mean nothing.
void top_k_packed(const Context& context, const std::vector<Segment>& segments, int64_t k, const Packed& out);

// The last batch of a score and the selection by it, in one pass over both: what accumulate_scores (score.h) and then
// the top k of the new scores give, k[0] in all, or k[t] of segment t for `each`. Doesn't wait. A score that is NaN or
// infinite makes all thresholds NaN; the scores are written all the same.
void accumulate_top_k_packed(const Context& context, const std::vector<Segment>& scores,
                             const std::vector<Segment>& grads, ScoreKind kind, double weight,
                             const std::vector<int64_t>& k, bool each, const Packed& out);

}  // namespace fgunlearn::cuda
