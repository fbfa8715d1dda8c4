#include "cpu/bracket.h"

#include <algorithm>
#include <limits>

#include "core/bracket.h"
#include "cpu/blocks.h"
#include "cpu/isa/table.h"

namespace fgunlearn::cpu {

namespace {

const char* address(const Segment& segment, int64_t element) {
  return static_cast<const char*>(segment.data) + element * item_size(segment.dtype);
}

// What one worker counts: 32 bits wide while it counts, so that more of it stays near the core.
class Counters {
 public:
  template <typename Count>
  void count(int64_t slots, int64_t n, Count&& count) {
    if (totals_.empty()) {
      copies_ = slots <= kInterleaved ? kHistogramCopies : 1;
      totals_.assign(static_cast<size_t>(slots), 0);
      counts_.assign(static_cast<size_t>(slots * copies_), 0);
    }
    if (pending_ + n > std::numeric_limits<uint32_t>::max()) flush();
    pending_ += n;
    uint32_t* places[kHistogramCopies];
    for (int64_t c = 0; c < kHistogramCopies; ++c) places[c] = counts_.data() + (c % copies_) * slots;
    count(places);
  }

  // Adds what was counted to out; nothing where this worker had nothing to do.
  void add_to(int64_t* out) {
    flush();
    for (size_t slot = 0; slot < totals_.size(); ++slot) out[slot] += totals_[slot];
  }

 private:
  static constexpr int64_t kInterleaved = 2048 + 2;  // slots up to which four copies fit into 32 KiB

  void flush() {
    const size_t slots = totals_.size();
    for (size_t at = 0; at < counts_.size(); ++at) totals_[at % slots] += counts_[at];
    std::fill(counts_.begin(), counts_.end(), 0u);
    pending_ = 0;
  }

  int64_t copies_ = 1;
  int64_t pending_ = 0;  // keys since the last flush
  std::vector<uint32_t> counts_;
  std::vector<int64_t> totals_;
};

template <typename Key>
void histogram(const Executor& executor, const std::vector<Segment>& segments, const KeyBins<Key>& bins, int64_t* out) {
  const auto pieces = cut(static_cast<int64_t>(segments.size()), kBlock, [&](int64_t t) { return segments[t].numel; });
  const auto& table = sizeof(Key) == 4 ? isa().histogram_key32 : isa().histogram_key64;
  const int64_t slots = int64_t{bins.bins} + 2;
  std::vector<Counters> counters(static_cast<size_t>(executor.workers()));
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t worker, int64_t p) {
    const Piece& piece = pieces[p];
    const Segment& segment = segments[piece.segment];
    const int64_t n = piece.end - piece.begin;
    counters[worker].count(slots, n, [&](uint32_t* const* places) {
      table[static_cast<int>(segment.dtype)](address(segment, piece.begin), n, bins.low, bins.shift, bins.bins, places);
    });
  });
  std::fill(out, out + slots, 0);
  for (Counters& one : counters) one.add_to(out);
}

}  // namespace

void bracket_histogram(const Executor& executor, const std::vector<Segment>& segments, int64_t low, int64_t shift,
                       int64_t bins, bool wide, int64_t* out) {
  if (wide) {
    histogram(executor, segments, key_bins<uint64_t>(low, shift, bins), out);
  } else {
    histogram(executor, segments, key_bins<uint32_t>(low, shift, bins), out);
  }
}

std::pair<Selected, Selected> bracket_split(const Executor& executor, const std::vector<Segment>& segments, int64_t low,
                                            int64_t high, bool wide) {
  SelectionMask above(segments);
  SelectionMask between(segments);
  const auto& table = wide ? isa().classify_key64 : isa().classify_key32;
  const Bracket<uint64_t> bracket = key_bracket<uint64_t>(low, high);
  const Bracket<uint32_t> narrow = key_bracket<uint32_t>(low, high);
  executor.for_each(static_cast<int64_t>(above.blocks().size()), [&](int64_t, int64_t b) {
    const Block& block = above.blocks()[b];
    const Segment& segment = segments[block.segment];
    const Classified found = table[static_cast<int>(segment.dtype)](
        address(segment, block.start), block.count, wide ? bracket.low : narrow.low, wide ? bracket.high : narrow.high,
        above.words(block), between.words(block));
    above.set_count(b, found.above);
    between.set_count(b, found.between);
  });
  constexpr double no_threshold = std::numeric_limits<double>::quiet_NaN();
  return {Selected(std::move(above), no_threshold, segments.size()),
          Selected(std::move(between), no_threshold, segments.size())};
}

}  // namespace fgunlearn::cpu
