#include <algorithm>
#include <cstring>

#include "cpu/isa/table.h"
#include "cpu/select.h"

namespace fgunlearn::cpu {

SelectionMask::SelectionMask(const std::vector<Segment>& segments) {
  int64_t word = 0;
  first_block_.reserve(segments.size() + 1);
  for (size_t s = 0; s < segments.size(); ++s) {
    first_block_.push_back(static_cast<int64_t>(blocks_.size()));
    for (int64_t start = 0; start < segments[s].numel; start += kBlock) {
      const int64_t count = std::min(kBlock, segments[s].numel - start);
      blocks_.push_back({static_cast<int64_t>(s), start, count, word});
      word += (count + kWordBits - 1) / kWordBits;
    }
  }
  first_block_.push_back(static_cast<int64_t>(blocks_.size()));
  counts_.assign(blocks_.size(), 0);
  words_.reset(new uint64_t[static_cast<size_t>(word)]);  // not zeroed: the first pass writes every word
}

void SelectionMask::fill(bool selected) {
  for (size_t b = 0; b < blocks_.size(); ++b) {
    const Block& block = blocks_[b];
    uint64_t* w = words(block);
    const int64_t full = block.count / kWordBits;
    const int64_t rest = block.count % kWordBits;
    std::memset(w, selected ? 0xff : 0, static_cast<size_t>(full) * sizeof(uint64_t));
    if (rest != 0) w[full] = selected ? (uint64_t{1} << rest) - 1 : 0;
    counts_[b] = selected ? block.count : 0;
  }
}

int64_t SelectionMask::segment_count(int64_t segment) const {
  int64_t total = 0;
  for (int64_t b = first_block_[segment]; b < first_block_[segment + 1]; ++b) total += counts_[b];
  return total;
}

namespace {

template <typename Index>
void write_indices(const uint64_t* words, int64_t word_count, int64_t start, Index* out) {
  for (int64_t w = 0; w < word_count; ++w) {
    for (uint64_t left = words[w]; left != 0; left &= left - 1) {
      *out++ = static_cast<Index>(start + w * kWordBits + __builtin_ctzll(left));
    }
  }
}

}  // namespace

void SelectionMask::compact(const Executor& executor, int64_t segment, bool wide, void* out) const {
  const int64_t first = first_block_[segment];
  const int64_t block_count = first_block_[segment + 1] - first;
  std::vector<int64_t> place(static_cast<size_t>(block_count) + 1, 0);
  for (int64_t b = 0; b < block_count; ++b) place[b + 1] = place[b] + counts_[first + b];
  executor.for_each(block_count, [&](int64_t, int64_t b) {
    const Block& block = blocks_[first + b];
    if (counts_[first + b] == 0) return;
    const int64_t word_count = (block.count + kWordBits - 1) / kWordBits;
    if (wide) {
      write_indices(words(block), word_count, block.start, static_cast<int64_t*>(out) + place[b]);
    } else {
      write_indices(words(block), word_count, block.start, static_cast<int32_t*>(out) + place[b]);
    }
  });
}

}  // namespace fgunlearn::cpu
