#include <algorithm>
#include <limits>
#include <utility>

#include "core/select.h"
#include "cpu/score.h"
#include "cpu/select.h"

namespace fgunlearn::cpu {

Selected::Selected(SelectionMask mask, double threshold, size_t segments) : thresholds_{threshold} {
  for (size_t t = 0; t < segments; ++t) counts_.push_back(mask.segment_count(static_cast<int64_t>(t)));
  masks_.push_back(std::move(mask));
}

Selected::Selected(std::vector<TopK> each) {
  for (TopK& one : each) {
    counts_.push_back(one.mask.segment_count(0));
    thresholds_.push_back(one.threshold);
    masks_.push_back(std::move(one.mask));
  }
}

void Selected::write(const Executor& executor, const std::vector<bool>& wide, const std::vector<void*>& out) const {
  // A list of one tensor reads the same either way.
  const bool together = masks_.size() == 1;
  for (size_t t = 0; t < out.size(); ++t) {
    if (together) {
      masks_[0].compact(executor, static_cast<int64_t>(t), wide[t], out[t]);
    } else {
      masks_[t].compact(executor, 0, wide[t], out[t]);
    }
  }
}

Selected top_k(const Executor& executor, const std::vector<Segment>& segments, int64_t k, bool exhaustive) {
  TopK top = top_k_mask(executor, segments, k, exhaustive);
  return Selected(std::move(top.mask), top.threshold, segments.size());
}

Selected top_k_each(const Executor& executor, const std::vector<Segment>& segments, const std::vector<int64_t>& k) {
  std::vector<TopK> each;
  for (size_t t = 0; t < segments.size(); ++t) {
    std::vector<Segment> one{segments[t]};
    one[0].offset = 0;
    try {
      each.push_back(top_k_mask(executor, one, k[t]));
    } catch (const BadKeys& bad) {
      throw BadKeys(static_cast<int64_t>(t), bad.count, bad.what_they_are);
    }
  }
  return Selected(std::move(each));
}

Selected random_k(const Executor& executor, const std::vector<Segment>& segments, int64_t k, uint64_t seed,
                  const std::vector<IndexList>* base) {
  return Selected(random_k_mask(executor, segments, k, seed, base), std::numeric_limits<double>::quiet_NaN(),
                  segments.size());
}

namespace {

void write_packed(const Executor& executor, const Selected& selected, const Packed& packed) {
  std::vector<void*> out;
  packed.offsets[0] = 0;
  for (size_t t = 0; t < selected.counts().size(); ++t) {
    out.push_back(static_cast<char*>(packed.indices) + packed.offsets[t] * (packed.wide ? 8 : 4));
    packed.offsets[t + 1] = packed.offsets[t] + selected.counts()[t];
  }
  selected.write(executor, std::vector<bool>(out.size(), packed.wide), out);
  std::copy(selected.thresholds().begin(), selected.thresholds().end(), packed.thresholds);
}

}  // namespace

void top_k_packed(const Executor& executor, const std::vector<Segment>& segments, int64_t k, const Packed& out) {
  write_packed(executor, top_k(executor, segments, k, false), out);
}

void accumulate_top_k_packed(const Executor& executor, const std::vector<Segment>& scores,
                             const std::vector<Segment>& grads, ScoreKind kind, double weight,
                             const std::vector<int64_t>& k, bool each, const Packed& out) {
  accumulate_scores(executor, scores, grads, kind, weight);
  std::vector<int64_t> bad(scores.size());
  count_nonfinite(executor, scores, bad.data());
  for (size_t t = 0; t < bad.size(); ++t) {
    if (bad[t] > 0) throw BadKeys(static_cast<int64_t>(t), bad[t], "NaN or infinite values");
  }
  write_packed(executor, each ? top_k_each(executor, scores, k) : top_k(executor, scores, k[0], false), out);
}

}  // namespace fgunlearn::cpu
