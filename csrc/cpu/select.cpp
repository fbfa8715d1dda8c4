#include "cpu/select.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>

#include "core/select.h"
#include "cpu/isa/table.h"
#include "cpu/select_candidates.h"

namespace fgunlearn::cpu {

namespace {

template <typename Key>
class TopKPass {
 public:
  TopKPass(const Executor& executor, const std::vector<Segment>& segments, int64_t k)
      : executor_(executor), segments_(segments), mask_(segments), k_(k) {
    for (const Segment& segment : segments) n_ += segment.numel;
    ties_.resize(mask_.blocks().size());
  }

  TopK run(bool exhaustive) {
    if (k_ == 0 || k_ == n_) return all_or_none();
    Bracket<Key> bracket;
    if (!exhaustive && n_ > kKeepAll) {
      bracket = sampled_bracket();
      // The same value on both sides: a plateau of ties, which would flood the buffer.
      if (bracket.low >= bracket.high) return settle(bracket.high);
    }
    if (exhaustive) return settle(radix_threshold());

    Candidates<Key> candidates(executor_.workers(), static_cast<int64_t>(mask_.blocks().size()),
                               std::max(kBufferFloor, n_ / 32));
    const int64_t above = classify(bracket, [&](int64_t worker, int64_t b, const uint64_t* between, int64_t count) {
      const Block& block = mask_.blocks()[b];
      const int64_t words = (block.count + kWordBits - 1) / kWordBits;
      const Segment& segment = segments_[block.segment];
      dispatch(segment.dtype, [&](auto tag) {
        using T = decltype(tag);
        const T* x = static_cast<const T*>(segment.data) + block.start;
        if constexpr (sizeof(T) <= sizeof(Key)) {
          candidates.append(worker, b, between, words, count,
                            [x](int64_t position) { return key_of<Key>(x[position]); });
        }
      });
    });
    if (above >= k_) return settle(bracket.high);
    if (candidates.overflowed()) return settle(radix_threshold());
    // bracket.low is one above a key of the sample, so a k-th key below the bracket is most likely that one.
    if (above + candidates.size() < k_) return settle(bracket.low - 1);
    std::vector<Key> keys = candidates.keys();
    const auto [threshold, ties] = nth_largest(keys, k_ - above);
    candidates.mark(mask_, threshold, ties);
    return {std::move(mask_), key_value(threshold)};
  }

 private:
  static constexpr int64_t kKeepAll = int64_t{1} << 15;  // lists this small are ranked whole in the buffer
  // Keys the buffer may always hold: near n = 2^21 and k = n/2 a good bracket holds just over 2^16.
  static constexpr int64_t kBufferFloor = int64_t{3} << 15;

  // Compares every key with the bracket; the mask gets the bits of the keys >= high, whose number is returned, and
  // found(worker, block, between, their number) is called for the blocks with keys inside. Throws BadKeys.
  template <typename Found>
  int64_t classify(Bracket<Key> bracket, Found&& found) {
    constexpr int64_t words_per_block = kBlock / kWordBits;
    std::vector<std::array<uint64_t, words_per_block>> scratch(executor_.workers());
    std::atomic<int64_t> above{0};
    std::atomic<bool> nan{false};
    const auto& table = sizeof(Key) == 4 ? isa().classify_key32 : isa().classify_key64;
    executor_.for_each(static_cast<int64_t>(mask_.blocks().size()), [&](int64_t worker, int64_t b) {
      const Block& block = mask_.blocks()[b];
      const Segment& segment = segments_[block.segment];
      const char* x = static_cast<const char*>(segment.data) + block.start * item_size(segment.dtype);
      uint64_t* between = scratch[worker].data();
      const Classified result = table[static_cast<int>(segment.dtype)](x, block.count, bracket.low, bracket.high,
                                                                       mask_.words(block), between);
      mask_.set_count(b, result.above);
      above.fetch_add(result.above, std::memory_order_relaxed);
      if (result.largest > KeyTraits<Key>::infinity) nan.store(true, std::memory_order_relaxed);
      if (result.between > 0) found(worker, b, between, result.between);
    });
    if (nan.load()) refuse_nan();
    return above.load();
  }

  [[noreturn]] void refuse_nan() {
    // Keys above infinity are NaN: count them in the first tensor that has any.
    for (size_t s = 0; s < segments_.size(); ++s) {
      int64_t count = 0;
      dispatch(segments_[s].dtype, [&](auto tag) {
        using T = decltype(tag);
        if constexpr (sizeof(T) <= sizeof(Key)) {
          const T* x = static_cast<const T*>(segments_[s].data);
          for (int64_t i = 0; i < segments_[s].numel; ++i) count += key_of<Key>(x[i]) > KeyTraits<Key>::infinity;
        }
      });
      if (count > 0) throw BadKeys(static_cast<int64_t>(s), count, "NaN");
    }
    throw std::logic_error("a NaN vanished while it was counted: the keys changed during the selection");
  }

  TopK all_or_none() {
    // One read all the same: a NaN is refused whatever k is, and k = n reports the smallest key.
    std::vector<Key> smallest(mask_.blocks().size(), KeyTraits<Key>::infinity);
    classify(Bracket<Key>{}, [&](int64_t, int64_t b, const uint64_t*, int64_t) {
      const Block& block = mask_.blocks()[b];
      const Segment& segment = segments_[block.segment];
      dispatch(segment.dtype, [&](auto tag) {
        using T = decltype(tag);
        if constexpr (sizeof(T) <= sizeof(Key)) {
          const T* x = static_cast<const T*>(segment.data) + block.start;
          for (int64_t i = 0; i < block.count; ++i) smallest[b] = std::min(smallest[b], key_of<Key>(x[i]));
        }
      });
    });
    mask_.fill(k_ > 0);
    double threshold = std::numeric_limits<double>::infinity();
    if (k_ > 0) threshold = key_value(*std::min_element(smallest.begin(), smallest.end()));
    return {std::move(mask_), threshold};
  }

  int64_t segment_at(int64_t global) const {
    const auto after = std::upper_bound(segments_.begin(), segments_.end(), global,
                                        [](int64_t g, const Segment& segment) { return g < segment.offset; });
    return static_cast<int64_t>(after - segments_.begin()) - 1;
  }

  // One key from each of m equal strata, at a place drawn by Philox, so that no stride in the data can line up with it.
  Bracket<Key> sampled_bracket() {
    const int64_t m = std::clamp(n_ / 128, int64_t{1} << 13, int64_t{1} << 18);
    std::vector<Key> sample(static_cast<size_t>(m));
    constexpr int64_t chunk = 4096;
    executor_.for_each((m + chunk - 1) / chunk, [&](int64_t, int64_t c) {
      const int64_t end = std::min(m, (c + 1) * chunk);
      for (int64_t j = c * chunk; j < end; ++j) {
        // floor(j * n / m) without overflow for any n below 2^63 / 2^18.
        const int64_t begin = (n_ / m) * j + (n_ % m) * j / m;
        const int64_t width = n_ / m;
        const uint64_t draw = static_cast<uint64_t>(j) * 0x9E3779B97F4A7C15ull;
        const uint64_t mixed = (draw ^ (draw >> 29)) * 0xBF58476D1CE4E5B9ull;
        const int64_t global = begin + static_cast<int64_t>((mixed >> 33) % static_cast<uint64_t>(width));
        sample[j] = key_at(global);
      }
    });
    const SampleRanks ranks = sample_ranks(n_, k_, m);
    Bracket<Key> bracket;
    auto below = sample.begin();
    if (ranks.high >= 0) {
      below = sample.begin() + ranks.high;
      std::nth_element(sample.begin(), below, sample.end(), std::greater<Key>());
      bracket.high = *below;
    }
    if (ranks.low < m) {
      const auto low = sample.begin() + ranks.low;
      std::nth_element(below, low, sample.end(), std::greater<Key>());
      bracket.low = *low + 1;  // low itself may be a plateau: keep it outside
    }
    return bracket;
  }

  Key key_at(int64_t global) const {
    const Segment& segment = segments_[segment_at(global)];
    return dispatch(segment.dtype, [&](auto tag) -> Key {
      using T = decltype(tag);
      if constexpr (sizeof(T) <= sizeof(Key)) {
        return key_of<Key>(static_cast<const T*>(segment.data)[global - segment.offset]);
      }
      return 0;
    });
  }

  // Finishes with `guess` as the k-th key, or with the true one where the guess is wrong.
  TopK settle(Key guess) {
    if (!take_threshold(guess) && !take_threshold(radix_threshold())) {
      throw std::logic_error("the k-th key was not found: the keys changed during the selection");
    }
    return {std::move(mask_), threshold_};
  }

  // Selects every key above `threshold` and, in order of global index, as many equal ones as are still wanted. False,
  // with the mask undefined, when `threshold` is not the k-th key.
  bool take_threshold(Key threshold) {
    std::fill(ties_.begin(), ties_.end(), 0);
    const int64_t above = classify({threshold, threshold + 1},
                                   [&](int64_t, int64_t b, const uint64_t*, int64_t tied) { ties_[b] = tied; });
    int64_t all_ties = 0;
    for (int64_t ties : ties_) all_ties += ties;
    int64_t wanted = k_ - above;
    if (wanted < 0 || wanted > all_ties) return false;
    if (wanted == 0) return false;  // the k-th key is larger than the guess
    threshold_ = key_value(threshold);

    // Blocks whose ties are all wanted are compared again with the threshold included; one block is cut.
    std::vector<int64_t> whole;
    int64_t cut = -1;
    for (int64_t b = 0; b < static_cast<int64_t>(ties_.size()) && wanted > 0; ++b) {
      if (ties_[b] == 0) continue;
      if (ties_[b] > wanted) {
        cut = b;
        break;
      }
      wanted -= ties_[b];
      whole.push_back(b);
    }
    const auto& table = sizeof(Key) == 4 ? isa().classify_key32 : isa().classify_key64;
    constexpr int64_t words_per_block = kBlock / kWordBits;
    std::vector<std::array<uint64_t, words_per_block>> scratch(executor_.workers());
    const auto compare_again = [&](int64_t worker, int64_t b, uint64_t* above_words) {
      const Block& block = mask_.blocks()[b];
      const Segment& segment = segments_[block.segment];
      const char* x = static_cast<const char*>(segment.data) + block.start * item_size(segment.dtype);
      return table[static_cast<int>(segment.dtype)](x, block.count, threshold, threshold, above_words,
                                                    scratch[worker].data());
    };
    executor_.for_each(static_cast<int64_t>(whole.size()), [&](int64_t worker, int64_t i) {
      mask_.set_count(whole[i], compare_again(worker, whole[i], mask_.words(mask_.blocks()[whole[i]])).above);
    });
    if (cut >= 0) {
      std::array<uint64_t, words_per_block> at_least;
      compare_again(0, cut, at_least.data());
      const Block& block = mask_.blocks()[cut];
      const uint64_t* selected = mask_.words(block);
      for (int64_t w = 0; w * kWordBits < block.count && wanted > 0; ++w) {
        for (uint64_t tied = at_least[w] & ~selected[w]; tied != 0 && wanted > 0; tied &= tied - 1, --wanted) {
          mask_.set(cut, w * kWordBits + __builtin_ctzll(tied));
        }
      }
    }
    return true;
  }

  // The k-th largest key by histograms of 11 bits at a time from the top: exact for any input, 3 reads of 32-bit keys.
  Key radix_threshold() {
    constexpr int digit_bits = 11;
    constexpr int64_t bins = int64_t{1} << digit_bits;
    int64_t need = k_;
    Key prefix = 0;
    int shift = static_cast<int>(sizeof(Key)) * 8 - 1;  // the sign bit is clear
    while (shift > 0) {
      const int width = std::min(digit_bits, shift);
      const int known = shift;  // bits [known, ...) of the key are settled
      shift -= width;
      std::vector<std::vector<int64_t>> counts(executor_.workers(), std::vector<int64_t>(bins, 0));
      executor_.for_each(static_cast<int64_t>(mask_.blocks().size()), [&](int64_t worker, int64_t b) {
        const Block& block = mask_.blocks()[b];
        const Segment& segment = segments_[block.segment];
        int64_t* count = counts[worker].data();
        dispatch(segment.dtype, [&](auto tag) {
          using T = decltype(tag);
          if constexpr (sizeof(T) <= sizeof(Key)) {
            const T* x = static_cast<const T*>(segment.data) + block.start;
            for (int64_t i = 0; i < block.count; ++i) {
              const Key key = key_of<Key>(x[i]);
              if ((key >> known) == (prefix >> known)) ++count[(key >> shift) & (bins - 1) & ((Key{1} << width) - 1)];
            }
          }
        });
      });
      for (int64_t bin = (int64_t{1} << width) - 1; bin >= 0; --bin) {
        int64_t total = 0;
        for (const auto& count : counts) total += count[bin];
        if (total >= need) {
          prefix |= static_cast<Key>(bin) << shift;
          break;
        }
        need -= total;
      }
    }
    return prefix;
  }

  const Executor& executor_;
  const std::vector<Segment>& segments_;
  SelectionMask mask_;
  std::vector<int64_t> ties_;  // per block, of the last take_threshold
  int64_t k_;
  int64_t n_ = 0;
  double threshold_ = 0.0;
};

}  // namespace

TopK top_k_mask(const Executor& executor, const std::vector<Segment>& segments, int64_t k, bool exhaustive) {
  const bool has_f64 =
      std::any_of(segments.begin(), segments.end(), [](const Segment& segment) { return segment.dtype == DType::f64; });
  if (has_f64) return TopKPass<uint64_t>(executor, segments, k).run(exhaustive);
  return TopKPass<uint32_t>(executor, segments, k).run(exhaustive);
}

}  // namespace fgunlearn::cpu
