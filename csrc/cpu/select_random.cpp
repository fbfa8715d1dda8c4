#include <array>
#include <atomic>

#include "core/select.h"
#include "cpu/isa/table.h"
#include "cpu/select.h"
#include "cpu/select_candidates.h"

namespace fgunlearn::cpu {

namespace {

// Bits of `base`, and how many there are in each block.
SelectionMask mask_of(const Executor& executor, const std::vector<Segment>& segments,
                      const std::vector<IndexList>& base) {
  SelectionMask mask(segments);
  mask.fill(false);
  executor.for_each(static_cast<int64_t>(mask.blocks().size()), [&](int64_t, int64_t b) {
    const Block& block = mask.blocks()[b];
    const IndexList& list = base[block.segment];
    int64_t lo = 0;  // first entry not before the block
    int64_t hi = list.count;
    while (lo < hi) {
      const int64_t mid = lo + (hi - lo) / 2;
      if (list[mid] < block.start) {
        lo = mid + 1;
      } else {
        hi = mid;
      }
    }
    for (; lo < list.count && list[lo] < block.start + block.count; ++lo) mask.set(b, list[lo] - block.start);
  });
  return mask;
}

}  // namespace

SelectionMask random_k_mask(const Executor& executor, const std::vector<Segment>& segments, int64_t k, uint64_t seed,
                            const std::vector<IndexList>* base) {
  SelectionMask mask(segments);
  const int64_t block_count = static_cast<int64_t>(mask.blocks().size());
  int64_t n = 0;
  for (const Segment& segment : segments) n += segment.numel;

  std::unique_ptr<SelectionMask> taken;
  if (base != nullptr) {
    taken = std::make_unique<SelectionMask>(mask_of(executor, segments, *base));
    for (int64_t b = 0; b < block_count; ++b) n -= taken->count(b);
  }
  const auto finish = [&]() {
    if (taken == nullptr) return;
    for (int64_t b = 0; b < block_count; ++b) {
      const Block& block = mask.blocks()[b];
      const uint64_t* other = taken->words(block);
      uint64_t* mine = mask.words(block);
      for (int64_t w = 0; w * kWordBits < block.count; ++w) mine[w] |= other[w];
      mask.set_count(b, mask.count(b) + taken->count(b));
    }
  };
  if (k == 0 || k == n) {
    mask.fill(k > 0);
    if (k > 0) return mask;  // everything, base included
    finish();
    return mask;
  }

  constexpr int64_t words_per_block = kBlock / kWordBits;
  struct Scratch {
    std::array<uint32_t, kBlock + 2 * kPhiloxGroup> random;
    std::array<uint64_t, words_per_block> between;
  };
  std::vector<std::unique_ptr<Scratch>> scratch(executor.workers());
  for (auto& one : scratch) one.reset(new Scratch);
  const auto classify = isa().classify_key32[static_cast<int>(DType::f32)];

  // Six standard deviations miss once in 5e8 draws; then the next bracket is ten times as wide.
  for (double sigmas = 6.0;; sigmas *= 10.0) {
    const Bracket<uint32_t> bracket = random_bracket(n, k, sigmas);
    Candidates<uint64_t> candidates(executor.workers(), block_count, n);
    std::atomic<int64_t> above{0};
    executor.for_each(block_count, [&](int64_t worker, int64_t b) {
      const Block& block = mask.blocks()[b];
      const int64_t global = segments[block.segment].offset + block.start;
      const int64_t first_group = global / kPhiloxGroup;
      const int64_t lead = global % kPhiloxGroup;
      uint32_t* random = scratch[worker]->random.data();
      isa().random_words(seed, static_cast<uint32_t>(Stream::select_high), first_group,
                         (lead + block.count + kPhiloxGroup - 1) / kPhiloxGroup, random);
      uint64_t* words = mask.words(block);
      uint64_t* between = scratch[worker]->between.data();
      // The random words read as floats: |x| keeps their low 31 bits, which is the high part of the key.
      const Classified found = classify(random + lead, block.count, bracket.low, bracket.high, words, between);
      const int64_t word_count = (block.count + kWordBits - 1) / kWordBits;
      int64_t kept = found.above;
      int64_t inside = found.between;
      if (taken != nullptr && taken->count(b) > 0) {
        const uint64_t* gone = taken->words(block);
        kept = 0;
        inside = 0;
        for (int64_t w = 0; w < word_count; ++w) {
          words[w] &= ~gone[w];
          between[w] &= ~gone[w];
          kept += __builtin_popcountll(words[w]);
          inside += __builtin_popcountll(between[w]);
        }
      }
      mask.set_count(b, kept);
      above.fetch_add(kept, std::memory_order_relaxed);
      if (inside > 0) {
        candidates.append(worker, b, between, word_count, inside,
                          [&](int64_t position) { return random_key(seed, global + position); });
      }
    });
    const int64_t need = k - above.load();
    if (need < 0 || need > candidates.size()) continue;
    if (need > 0) {
      std::vector<uint64_t> keys = candidates.keys();
      const auto [threshold, ties] = nth_largest(keys, need);
      candidates.mark(mask, threshold, ties);
    }
    finish();
    return mask;
  }
}

}  // namespace fgunlearn::cpu
