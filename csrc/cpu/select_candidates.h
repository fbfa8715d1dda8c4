// The keys inside the bracket: what both selections rank exactly after their one pass.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "cpu/isa/table.h"
#include "cpu/select.h"

namespace fgunlearn::cpu {

// A key inside the bracket, and where it lies.
template <typename Key>
struct Candidate {
  Key key;
  int32_t position;  // within its block
};
static_assert(kBlock <= std::numeric_limits<int32_t>::max());

// The candidates of one block, in ascending order of index: a slice of the buffer of the worker that met them.
struct Slice {
  int64_t worker = 0;
  int64_t begin = 0;
  int64_t count = 0;
};

// Gathered without order between blocks, read back in it. Past `limit` keys it only says so: a bracket that holds many
// was a bad guess, and the memory is not spent on it.
template <typename Key>
class Candidates {
 public:
  Candidates(int64_t workers, int64_t blocks, int64_t limit) : buffers_(workers), slices_(blocks), limit_(limit) {}

  bool overflowed() const { return count_.load(std::memory_order_relaxed) > limit_; }

  // `between` has one bit for each candidate among the block's positions; key(position) gives its key.
  template <typename KeyAt>
  void append(int64_t worker, int64_t block, const uint64_t* between, int64_t words, int64_t count, KeyAt&& key) {
    if (count_.fetch_add(count, std::memory_order_relaxed) + count > limit_) return;
    auto& buffer = buffers_[worker];
    Slice slice{worker, static_cast<int64_t>(buffer.size()), 0};
    for (int64_t w = 0; w < words; ++w) {
      for (uint64_t left = between[w]; left != 0; left &= left - 1) {
        const int64_t position = w * kWordBits + __builtin_ctzll(left);
        buffer.push_back({key(position), static_cast<int32_t>(position)});
      }
    }
    slice.count = count;
    slices_[block] = slice;
  }

  int64_t size() const { return count_.load(std::memory_order_relaxed); }

  std::vector<Key> keys() const {
    std::vector<Key> all;
    all.reserve(static_cast<size_t>(size()));
    for (const auto& buffer : buffers_) {
      for (const auto& candidate : buffer) all.push_back(candidate.key);
    }
    return all;
  }

  // Marks every key above `threshold`, and the first `ties` keys equal to it in order of global index.
  void mark(SelectionMask& mask, Key threshold, int64_t ties) const {
    for (int64_t b = 0; b < static_cast<int64_t>(slices_.size()); ++b) {
      const Candidate<Key>* candidate = buffers_[slices_[b].worker].data() + slices_[b].begin;
      for (int64_t c = 0; c < slices_[b].count; ++c) {
        const bool tied = candidate[c].key == threshold;
        if (candidate[c].key > threshold || (tied && ties > 0)) mask.set(b, candidate[c].position);
        ties -= tied ? 1 : 0;
      }
    }
  }

 private:
  std::vector<std::vector<Candidate<Key>>> buffers_;
  std::vector<Slice> slices_;
  int64_t limit_;
  std::atomic<int64_t> count_{0};
};

// The need-th largest key (1 = largest), and how many of the keys equal to it are among the first `need`. Reorders
// keys.
template <typename Key>
inline std::pair<Key, int64_t> nth_largest(std::vector<Key>& keys, int64_t need) {
  const auto nth = keys.begin() + (need - 1);
  std::nth_element(keys.begin(), nth, keys.end(), std::greater<Key>());
  const Key threshold = *nth;
  return {threshold, std::count(keys.begin(), nth + 1, threshold)};
}

}  // namespace fgunlearn::cpu
