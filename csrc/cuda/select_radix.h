// Finding the k-th key: in a sample, to bracket it; among the candidates, exactly; and over all keys, exact for any
// input, where a sample misled.
//
// Digits of 11 bits from the top. The candidates' digits are of the distance to the bracket's lower end, so that their
// first one tells them apart, and a narrow bracket needs one or two. A digit costs a read of the candidates (4 or 8
// bytes each, 0.3% of the keys) and two short launches.
#pragma once

#include "cuda/block.h"
#include "cuda/select_sources.h"

namespace fgunlearn::cuda {

constexpr int kBracketThreads = 1024;

// The digit that the need-th largest of the counted keys has, from the top; `need` becomes its rank among those that
// share the digit. For all threads of the block; `bins` is in shared memory, `scratch` has a place per warp and two
// more.
template <typename Count>
__device__ inline int pick_digit(const Count* bins, int64_t& need, int64_t* scratch, int* picked) {
  const int per_thread = kBins / static_cast<int>(blockDim.x);
  const int top = kBins - 1 - static_cast<int>(threadIdx.x) * per_thread;
  int64_t mine = 0;
  for (int i = 0; i < per_thread; ++i) mine += static_cast<int64_t>(bins[top - i]);
  int64_t total = 0;
  int64_t before = block_exclusive_sum(mine, scratch, total);
  if (threadIdx.x == 0) {
    *picked = 0;
    scratch[33] = 1;  // where no digit is found: the keys changed meanwhile
  }
  __syncthreads();
  if (before < need && need <= before + mine) {
    int bin = top;
    while (before + static_cast<int64_t>(bins[bin]) < need) before += static_cast<int64_t>(bins[bin--]);
    *picked = bin;
    scratch[33] = need - before;
  }
  __syncthreads();
  need = scratch[33];
  const int digit = *picked;
  __syncthreads();
  return digit;
}

// One key from each of sample_size equal strata of its group, at a place drawn by a hash, so that no stride in the data
// can line up with it. As the CPU's sample.
template <typename Key, typename Source>
__global__ void __launch_bounds__(kThreads) sample_kernel(Plan<Key> plan, Source source) {
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < plan.sample_total;
       i += int64_t{gridDim.x} * kThreads) {
    const int32_t g = item_of_tile(plan.group_count, i, [&](int32_t item) { return plan.groups[item].sample_begin; });
    const Group& group = plan.groups[g];
    const int64_t j = i - group.sample_begin;
    const int64_t m = group.sample_size;
    const int64_t width = group.n / m;
    const int64_t begin = width * j + (group.n % m) * j / m;
    const uint64_t draw = static_cast<uint64_t>(j) * 0x9E3779B97F4A7C15ull;
    const uint64_t mixed = (draw ^ (draw >> 29)) * 0xBF58476D1CE4E5B9ull;
    const int64_t global = group.offset + begin + static_cast<int64_t>((mixed >> 33) % static_cast<uint64_t>(width));
    const int32_t s = group.first_segment +
                      item_of_tile(group.end_segment - group.first_segment, global,
                                   [&](int32_t item) { return plan.segments[group.first_segment + item].offset; });
    const KeySegment& segment = plan.segments[s];
    plan.sample[i] = source.template key_at<Key>(segment, global - segment.offset);
  }
}

// What is known of a key that is looked for: the bits of key - base above bit `bits` are those of prefix.
template <typename Key>
struct Known {
  Key base;
  Key prefix;
  int bits;
};

// Adds one to the bin of each lane that `counts`. For all lanes of a warp, which add the bin of their first at once: a
// plateau would otherwise queue 32 lanes at one bin.
template <typename Count>
__device__ inline void count_bin(bool counts, int bin, Count* bins) {
  const uint32_t counting = __ballot_sync(kAllLanes, counts);
  if (counting == 0) return;
  const int leader = __ffs(static_cast<int>(counting)) - 1;
  const bool with_leader = bin == __shfl_sync(kAllLanes, bin, leader);
  const uint32_t together = __ballot_sync(kAllLanes, counts && with_leader);
  if (lane_id() == leader) {
    atomicAdd(&bins[bin], static_cast<Count>(__popc(together)));
  } else if (counts && !with_leader) {
    atomicAdd(&bins[bin], Count{1});
  }
}

// Counts the next digit of a key that agrees with what is known. For all lanes of a warp.
template <typename Key>
__device__ inline void count_digit(const Known<Key>& known, bool present, Key key, uint32_t* bins) {
  const Key value = key - known.base;
  const int width = known.bits < kDigitBits ? known.bits : kDigitBits;
  const bool counts = present && (value >> known.bits) == (known.prefix >> known.bits);
  const int digit = static_cast<int>((value >> (known.bits - width)) & ((Key{1} << width) - 1));
  count_bin(counts, digit, bins);
}

constexpr int kKeysInFlight = 8;  // that a thread asks for before it counts the first

// Counts the digits of keys [begin, begin + stride), [begin + step, ...) ... below `end`, by all threads of a block.
template <typename Key>
__device__ inline void count_digits(const Known<Key>& known, const Key* keys, int64_t begin, int64_t end, int64_t step,
                                    uint32_t* bins) {
  for (int64_t first = begin; first < end; first += kKeysInFlight * step) {
    Key key[kKeysInFlight];
#pragma unroll
    for (int i = 0; i < kKeysInFlight; ++i) {
      const int64_t at = first + i * step + threadIdx.x;
      key[i] = at < end ? keys[at] : Key{0};
    }
#pragma unroll
    for (int i = 0; i < kKeysInFlight; ++i) count_digit(known, first + i * step + threadIdx.x < end, key[i], bins);
  }
}

template <typename Count>
__device__ inline void clear_bins(Count* bins) {
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += static_cast<int>(blockDim.x)) bins[bin] = 0;
}

// The rank-th largest (0 = largest) of `count` keys, by one block.
template <typename Key>
__device__ Key nth_largest(const Key* keys, int64_t count, int64_t rank, uint32_t* bins, int64_t* scratch,
                           int* picked) {
  int64_t need = rank + 1;
  Known<Key> known{0, 0, kKeyBits<Key>};
  while (known.bits > 0) {
    clear_bins(bins);
    __syncthreads();
    count_digits(known, keys, 0, count, int64_t{blockDim.x}, bins);
    __syncthreads();
    const int digit = pick_digit(bins, need, scratch, picked);
    known.bits -= known.bits < kDigitBits ? known.bits : kDigitBits;
    known.prefix |= static_cast<Key>(digit) << known.bits;
  }
  return known.prefix;
}

// One block per group: its bracket, and what its first pass is to be.
template <typename Key>
__global__ void __launch_bounds__(kBracketThreads) bracket_kernel(Plan<Key> plan, int exhaustive) {
  __shared__ uint32_t bins[kBins];
  __shared__ int64_t scratch[34];
  __shared__ int picked;
  const Group& group = plan.groups[blockIdx.x];
  GroupState<Key> state{};
  state.low = 0;
  state.high = KeyTraits<Key>::above_all;
  state.phase = Phase::bracket;
  if (group.k == 0) {
    state.low = KeyTraits<Key>::above_all;  // nothing is selected; the keys are still looked at
  } else if (exhaustive != 0) {
    state.phase = Phase::radix;
    state.bits = kKeyBits<Key>;
    state.need = group.k;
  } else if (group.sample_size > 0) {
    const Key* sample = plan.sample + group.sample_begin;
    const SampleRanks ranks = group.ranks;
    if (ranks.high >= 0) state.high = nth_largest(sample, group.sample_size, ranks.high, bins, scratch, &picked);
    if (ranks.low < group.sample_size) {
      // One above: the key itself may be a plateau, which is kept out.
      state.low = nth_largest(sample, group.sample_size, ranks.low, bins, scratch, &picked) + 1;
    }
    if (state.low >= state.high) {  // the same key on both sides: a plateau
      state.phase = Phase::plateau;
      state.low = state.high;
      state.high = state.low + 1;
    }
  }
  if (threadIdx.x == 0) plan.states[blockIdx.x] = state;
}

// After a pass: what it found, and what follows. One thread per group.
template <typename Key>
__global__ void __launch_bounds__(kThreads) decide_kernel(Plan<Key> plan) {
  const int64_t g = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (g >= plan.group_count) return;
  GroupState<Key>& state = plan.states[g];
  const bool plateau = state.phase == Phase::plateau;
  if (!plateau && state.phase != Phase::bracket) return;
  const int64_t k = plan.groups[g].k;
  const int64_t above = static_cast<int64_t>(state.above);
  const int64_t between = static_cast<int64_t>(state.between);
  state.above = 0;
  state.between = 0;
  state.candidates = between;
  if (k == 0 || (plan.preset != 0 && above == k)) {  // no candidate is needed
    state.phase = Phase::settled;
    state.threshold = KeyTraits<Key>::above_all;
    return;
  }
  const bool holds = above < k && k <= above + between;
  if (plateau) {
    if (holds) {
      state.phase = Phase::settled;
      state.by_ties = 1;
      state.threshold = state.low;
      state.ties = k - above;
    } else if (state.exact != 0) {
      state.phase = Phase::failed;
    } else {
      state.phase = Phase::radix;
      state.base = 0;
      state.prefix = 0;
      state.bits = kKeyBits<Key>;
      state.need = k;
    }
    return;
  }
  if (holds && between <= plan.groups[g].candidates) {
    state.base = state.low;
    state.prefix = 0;
    state.need = k - above;
    const Key largest = state.high - 1 - state.low;
    state.bits = 0;
    while (state.bits < kKeyBits<Key> && (largest >> state.bits) != 0) ++state.bits;
    state.phase = Phase::ranked;
    if (state.bits == 0) {
      state.phase = Phase::settled;
      state.threshold = state.low;
      state.ties = state.need;
    }
  } else if (plan.preset != 0) {
    state.phase = Phase::failed;
  } else if (holds) {
    state.phase = Phase::radix;
    state.base = 0;
    state.prefix = 0;
    state.bits = kKeyBits<Key>;
    state.need = k;
  } else {
    // The sample key that the bracket ends at is most likely a plateau that holds the k-th.
    const Key guess = above >= k ? state.high : state.low - 1;
    state.phase = Phase::plateau;
    state.low = guess;
    state.high = guess + 1;
  }
}

template <typename Key>
__device__ inline Known<Key> known_of(const GroupState<Key>& state) {
  return {state.base, state.prefix, state.bits};
}

// Adds a block's counts to its group's.
template <typename Key>
__device__ inline void flush_bins(const Plan<Key>& plan, int32_t g, const uint32_t* bins) {
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += static_cast<int>(blockDim.x)) {
    if (bins[bin] != 0) {
      atomicAdd(&plan.bins[int64_t{g} * kBins + bin], static_cast<unsigned long long>(bins[bin]));
    }
  }
}

// The next digit's histogram of the candidates of the groups that are ranked by them. Block b works on group b modulo
// their number; the candidates of a group lie one after another, and their order does not matter here.
template <typename Key>
__global__ void __launch_bounds__(kThreads) histogram_candidates_kernel(Plan<Key> plan) {
  __shared__ uint32_t bins[kBins];
  const auto g = static_cast<int32_t>(blockIdx.x % static_cast<unsigned>(plan.group_count));
  const int64_t part = blockIdx.x / static_cast<unsigned>(plan.group_count);
  const int64_t parts = gridDim.x / static_cast<unsigned>(plan.group_count);
  const GroupState<Key> state = plan.states[g];
  const int64_t begin = part * kThreads;
  if (state.phase != Phase::ranked || state.bits == 0 || begin >= state.candidates) return;
  clear_bins(bins);
  __syncthreads();
  count_digits(known_of(state), plan.candidates + plan.groups[g].candidate_begin, begin, state.candidates,
               parts * kThreads, bins);
  __syncthreads();
  flush_bins(plan, g, bins);
}

// The same of all keys, for the groups that no guess has settled. A block takes neighbouring tiles, so that it counts
// one group at a time in shared memory.
template <typename Key>
__global__ void __launch_bounds__(kThreads, sizeof(Key) == 8 ? 2 : 3) histogram_keys_kernel(Plan<Key> plan) {
  constexpr int in_flight = 4;
  __shared__ uint32_t bins[kBins];
  const int64_t per_block = (plan.tiles + gridDim.x - 1) / gridDim.x;
  const int64_t begin = int64_t{blockIdx.x} * per_block;
  const int64_t end = begin + per_block < plan.tiles ? begin + per_block : plan.tiles;
  for (int64_t tile = begin; tile < end;) {
    const int32_t g = plan.segments[segment_of_tile(plan, tile)].group;
    const int64_t group_end = first_tile_of(plan, plan.groups[g].end_segment);
    const int64_t run_end = group_end < end ? group_end : end;
    const GroupState<Key> state = plan.states[g];
    if (state.phase == Phase::radix && state.bits > 0) {
      const Known<Key> known = known_of(state);
      clear_bins(bins);
      __syncthreads();
      for (int64_t t = tile + warp_in_block(); t < run_end; t += kWarpsPerBlock) {
        const KeySegment segment = plan.segments[segment_of_tile(plan, t)];
        const int64_t first = (t - segment.first_tile) * kTile - segment.lead + lane_id();
        for (int64_t p = 0; p < kTile; p += in_flight * kWarp) {
          Key key[in_flight];
#pragma unroll
          for (int i = 0; i < in_flight; ++i) {
            const int64_t element = first + p + i * kWarp;
            const bool present = element >= 0 && element < segment.numel;
            key[i] = present ? MemoryKeys{false}.template key_at<Key>(segment, element) : Key{0};
          }
#pragma unroll
          for (int i = 0; i < in_flight; ++i) {
            const int64_t element = first + p + i * kWarp;
            count_digit(known, element >= 0 && element < segment.numel, key[i], bins);
          }
        }
      }
      __syncthreads();
      flush_bins(plan, g, bins);
      __syncthreads();
    }
    tile = run_end;
  }
}

// One block per group: settles the digit that was counted, and clears the bins.
template <typename Key>
__global__ void __launch_bounds__(kThreads) pick_kernel(Plan<Key> plan, Phase phase) {
  __shared__ int64_t bins[kBins];
  __shared__ int64_t scratch[34];
  __shared__ int picked;
  GroupState<Key>& state = plan.states[blockIdx.x];
  if (state.phase != phase || state.bits == 0) return;
  unsigned long long* counted = plan.bins + int64_t{blockIdx.x} * kBins;
  for (int bin = static_cast<int>(threadIdx.x); bin < kBins; bin += kThreads) {
    bins[bin] = static_cast<int64_t>(counted[bin]);
    counted[bin] = 0;
  }
  __syncthreads();
  int64_t need = state.need;
  const int digit = pick_digit(bins, need, scratch, &picked);
  if (threadIdx.x != 0) return;
  state.bits -= state.bits < kDigitBits ? state.bits : kDigitBits;
  state.prefix |= static_cast<Key>(digit) << state.bits;
  state.need = need;
  if (state.bits > 0) return;
  if (phase == Phase::ranked) {
    state.phase = Phase::settled;
    state.threshold = state.base + state.prefix;
    state.ties = need;
  } else {
    state.phase = Phase::plateau;
    state.exact = 1;
    state.low = state.prefix;
    state.high = state.prefix + 1;
  }
}

}  // namespace fgunlearn::cuda
