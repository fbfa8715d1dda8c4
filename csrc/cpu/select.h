// Exact selection of k coordinates over a list of tensors, on the CPU. Rules and key order: core/select.h.
//
// Floor: one read of the keys (4 bytes each for f32). top_k adds, for n keys and k of them selected: a sample of at
// most 2^18 keys, n/8 bytes of bit mask written and read once, a bracket of about 0.1 to 0.4% of the keys (16 bytes
// each), and the k indices. random_k reads nothing. No copy of the keys is made and nothing is sorted.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/executor.h"
#include "core/score.h"
#include "core/segment.h"
#include "core/select.h"

namespace fgunlearn::cpu {

// A stretch of at most kBlock elements of one segment: the work item of every pass.
struct Block {
  int64_t segment;
  int64_t start;  // local flat index of the first element; a multiple of 64
  int64_t count;
  int64_t word;  // first word of the block's bits in the mask
};

// The selected coordinates as bits. Each segment begins at a word of its own; bit j of word w of a segment is its local
// flat index 64 * w + j.
class SelectionMask {
 public:
  explicit SelectionMask(const std::vector<Segment>& segments);

  const std::vector<Block>& blocks() const { return blocks_; }
  uint64_t* words(const Block& block) { return words_.get() + block.word; }
  const uint64_t* words(const Block& block) const { return words_.get() + block.word; }
  void set(int64_t block, int64_t position) {
    words_[blocks_[block].word + (position >> 6)] |= uint64_t{1} << (position & 63);
    ++counts_[block];
  }
  void set_count(int64_t block, int64_t selected) { counts_[block] = selected; }
  int64_t count(int64_t block) const { return counts_[block]; }
  void fill(bool selected);

  int64_t segment_count(int64_t segment) const;
  // Writes the segment's selected local flat indices in ascending order: int32 where numel < 2^31, else int64.
  void compact(const Executor& executor, int64_t segment, bool wide, void* out) const;

 private:
  std::vector<Block> blocks_;
  std::vector<int64_t> counts_;
  std::vector<int64_t> first_block_;  // per segment, and one past the end
  std::unique_ptr<uint64_t[]> words_;
};

struct TopK {
  SelectionMask mask;
  double threshold;  // |value| of the smallest selected key; infinity for k = 0
};

// The k largest |x|; ties at the border go to the smallest global index. Segments must be contiguous. Throws BadKeys.
// `exhaustive` skips the sample and finds the threshold by radix histograms, as is done when a sample misleads.
TopK top_k_mask(const Executor& executor, const std::vector<Segment>& segments, int64_t k, bool exhaustive = false);

// A uniform k-subset: the k largest Philox keys of (seed, global index). With `base` (one list per segment) the subset
// is drawn from the coordinates outside base, and the mask is the union with it. Only numel and offset of a segment are
// read.
SelectionMask random_k_mask(const Executor& executor, const std::vector<Segment>& segments, int64_t k, uint64_t seed,
                            const std::vector<IndexList>* base = nullptr);

// What a selection found, before its indices are written: the interface of both devices.
class Selected {
 public:
  // One mask over all segments.
  Selected(SelectionMask mask, double threshold, size_t segments);
  // One mask for each segment.
  explicit Selected(std::vector<TopK> each);

  const std::vector<int64_t>& counts() const { return counts_; }         // per segment
  const std::vector<double>& thresholds() const { return thresholds_; }  // one, or one per segment

  // Writes the indices of every segment in ascending order: to out[t] as int64 where wide[t], else as int32.
  void write(const Executor& executor, const std::vector<bool>& wide, const std::vector<void*>& out) const;

 private:
  std::vector<SelectionMask> masks_;
  std::vector<int64_t> counts_;
  std::vector<double> thresholds_;
};

Selected top_k(const Executor& executor, const std::vector<Segment>& segments, int64_t k, bool exhaustive);

// k[t] of segment t alone.
Selected top_k_each(const Executor& executor, const std::vector<Segment>& segments, const std::vector<int64_t>& k);

Selected random_k(const Executor& executor, const std::vector<Segment>& segments, int64_t k, uint64_t seed,
                  const std::vector<IndexList>* base);

// top_k with its outputs in one piece.
void top_k_packed(const Executor& executor, const std::vector<Segment>& segments, int64_t k, const Packed& out);

// The last batch of a score and the selection by it: accumulate_scores (score.h), then the top k of the new scores,
// k[0] in all, or k[t] of segment t for `each`. Throws BadKeys for a score that is NaN or infinite; the scores are
// written all the same.
void accumulate_top_k_packed(const Executor& executor, const std::vector<Segment>& scores,
                             const std::vector<Segment>& grads, ScoreKind kind, double weight,
                             const std::vector<int64_t>& k, bool each, const Packed& out);

}  // namespace fgunlearn::cpu
