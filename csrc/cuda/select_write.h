// From bits and candidates to ascending indices: count per tile, sum over the tiles before, write.
//
// Moves n/8 bytes of bits read (n/4 where ties decide) and the indices written, 4 or 8 bytes each. Of 1e9 keys, k = 1%,
// that is 165 MB, 4% of the read of the keys.
#pragma once

#include "cuda/block.h"
#include "cuda/dispatch.h"
#include "cuda/select_plan.h"

namespace fgunlearn::cuda {

constexpr int kScanPerThread = 4;
constexpr int64_t kScanChunk = int64_t{kThreads} * kScanPerThread;  // tiles of one block

// Per tile: how many keys are selected for certain, and how many equal the threshold.
template <typename Key>
__global__ void __launch_bounds__(kThreads) count_kernel(Plan<Key> plan) {
  for_each_tile(plan, [&](int64_t tile) {
    const GroupState<Key>& state = plan.states[plan.segments[segment_of_tile(plan, tile)].group];
    if (state.phase != Phase::settled) {  // nothing is written for this group
      if (lane_id() == 0) plan.tile_certain[tile] = plan.tile_ties[tile] = 0;
      return;
    }
    uint32_t certain = 0;
    uint32_t ties = 0;
    if (plan.taken != nullptr) {
      for (int w = lane_id(); w < kTileWords; w += kWarp) {
        certain += static_cast<uint32_t>(__popc(plan.taken[tile * kTileWords + w]));
      }
    }
    if (state.by_ties == 0) {
      const int64_t slice = plan.tile_slice[tile];
      const int64_t count = plan.tile_between[tile];
      for (int64_t c = lane_id(); c < count; c += kWarp) {
        const Key key = plan.candidates[slice + c];
        certain += key > state.threshold;
        ties += key == state.threshold;
      }
    }
    certain = warp_sum(certain);
    ties = warp_sum(ties);
    if (lane_id() == 0) {
      plan.tile_certain[tile] = certain + plan.tile_above[tile];
      plan.tile_ties[tile] = state.by_ties != 0 ? plan.tile_between[tile] : ties;
    }
  });
}

// Sums of kScanChunk tiles at a time: chunk_sums[2 c] certain, [2 c + 1] ties.
template <typename Key>
__global__ void __launch_bounds__(kThreads) chunk_sums_kernel(Plan<Key> plan, int64_t* chunk_sums) {
  __shared__ int64_t scratch[34];
  int64_t certain = 0;
  int64_t ties = 0;
  for (int i = 0; i < kScanPerThread; ++i) {
    const int64_t tile = int64_t{blockIdx.x} * kScanChunk + i * kThreads + threadIdx.x;
    if (tile < plan.tiles) {
      certain += plan.tile_certain[tile];
      ties += plan.tile_ties[tile];
    }
  }
  int64_t total = 0;
  block_exclusive_sum(certain, scratch, total);
  if (threadIdx.x == 0) chunk_sums[2 * int64_t{blockIdx.x}] = total;
  __syncthreads();
  block_exclusive_sum(ties, scratch, total);
  if (threadIdx.x == 0) chunk_sums[2 * int64_t{blockIdx.x} + 1] = total;
}

// One of the two sums over the tiles before: `counts` per tile, `chunk_sums` with a stride of 2.
__device__ inline void scan_chunk(const uint32_t* counts, int64_t tiles, const int64_t* chunk_sums, int64_t* before,
                                  int64_t* scratch) {
  int64_t mine = 0;
  for (int64_t chunk = threadIdx.x; chunk < blockIdx.x; chunk += kThreads) mine += chunk_sums[2 * chunk];
  int64_t base = 0;
  block_exclusive_sum(mine, scratch, base);
  __syncthreads();
  const int64_t first = int64_t{blockIdx.x} * kScanChunk + int64_t{threadIdx.x} * kScanPerThread;
  int64_t sum = 0;
  for (int i = 0; i < kScanPerThread; ++i) sum += first + i < tiles ? counts[first + i] : 0;
  int64_t total = 0;
  int64_t running = base + block_exclusive_sum(sum, scratch, total);
  for (int i = 0; i < kScanPerThread; ++i) {
    if (first + i < tiles) before[first + i] = running;
    running += first + i < tiles ? counts[first + i] : 0;
  }
  if (blockIdx.x == gridDim.x - 1 && threadIdx.x == 0) before[tiles] = base + total;
  __syncthreads();
}

template <typename Key>
__global__ void __launch_bounds__(kThreads) scan_kernel(Plan<Key> plan, const int64_t* chunk_sums) {
  __shared__ int64_t scratch[34];
  scan_chunk(plan.tile_certain, plan.tiles, chunk_sums, plan.certain_before, scratch);
  scan_chunk(plan.tile_ties, plan.tiles, chunk_sums + 1, plan.ties_before, scratch);
}

// The sums over the tiles of one group: how many of its coordinates are selected before a tile.
template <typename Key>
class GroupSums {
 public:
  __device__ GroupSums(const Plan<Key>& plan, int32_t g)
      : plan_(plan),
        certain_(plan.certain_before[plan.groups[g].first_tile]),
        ties_(plan.ties_before[plan.groups[g].first_tile]),
        selected_ties_(plan.states[g].ties) {}

  __device__ int64_t before(int64_t tile) const {
    const int64_t ties = plan_.ties_before[tile] - ties_;
    return plan_.certain_before[tile] - certain_ + (ties < selected_ties_ ? ties : selected_ties_);
  }

  // How many of the ties are left to select when the tile's turn comes; negative where none are.
  __device__ int64_t ties_left(int64_t tile) const { return selected_ties_ - (plan_.ties_before[tile] - ties_); }

 private:
  const Plan<Key>& plan_;
  int64_t certain_;
  int64_t ties_;
  int64_t selected_ties_;
};

// What the host has to know, or a caller of the packed form gets. Any pointer may be null.
struct Summary {
  int64_t* flags;      // [0]: a bad key; [1]: groups that are not settled
  double* thresholds;  // per group
  int64_t* counts;     // per segment
  int64_t* offsets;    // of one group: per segment, and one more
};

template <typename Key>
__global__ void __launch_bounds__(kThreads) summary_kernel(Plan<Key> plan, Summary summary) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const bool bad = *plan.bad_key != 0;
  if (i == 0 && summary.flags != nullptr) summary.flags[0] = bad ? 1 : 0;
  if (i == 0 && summary.offsets != nullptr && plan.segment_count == 0) summary.offsets[0] = 0;
  if (i < plan.group_count) {
    const GroupState<Key>& state = plan.states[i];
    if (summary.thresholds != nullptr) {
      constexpr Key infinity = KeyTraits<Key>::infinity;
      const Key key = state.threshold == KeyTraits<Key>::above_all ? infinity : state.threshold;
      const bool none = bad || state.phase != Phase::settled;
      summary.thresholds[i] = key_value(none ? static_cast<Key>(infinity + 1) : key);  // NaN
    }
    if (summary.flags != nullptr && state.phase != Phase::settled) {
      atomicAdd(reinterpret_cast<unsigned long long*>(&summary.flags[1]), 1ull);
    }
  }
  if (i < plan.segment_count) {
    const int32_t g = plan.segments[i].group;
    const GroupSums<Key> sums(plan, g);
    const int64_t before = sums.before(plan.segments[i].first_tile);
    const int64_t after = sums.before(first_tile_of(plan, static_cast<int32_t>(i) + 1));
    if (summary.counts != nullptr) summary.counts[i] = after - before;
    if (summary.offsets != nullptr) {
      summary.offsets[i] = before;
      if (i == plan.segment_count - 1) summary.offsets[plan.segment_count] = after;
    }
  }
}

// Where one segment's indices go.
struct Output {
  void* indices;
  int32_t wide;      // int64, else int32
  int32_t in_group;  // `indices` is the whole group's: place j is that of its j-th selected coordinate
};

constexpr int kStage = 1024;  // positions of a tile that are put in order before they are written

// Writes the positions whose bits stand in `words` (kPerLane words for each lane), at most kStage of them.
template <int kPerLane>
__device__ inline int emit(const uint32_t* words, int first_word, int64_t element, const Output& output, int64_t place,
                           uint16_t* stage) {
  const int mine = first_word + kPerLane * lane_id();
  int count = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) count += __popc(words[mine + i]);
  const int before = warp_exclusive_sum(count);
  const int total = __shfl_sync(kAllLanes, before + count, kWarp - 1);
  int at = before;
  for (int i = 0; i < kPerLane; ++i) {
    for (uint32_t left = words[mine + i]; left != 0; left &= left - 1) {
      stage[at++] = static_cast<uint16_t>(32 * (mine + i) + __ffs(static_cast<int>(left)) - 1);
    }
  }
  __syncwarp();
  for (int j = lane_id(); j < total; j += kWarp) {
    const int64_t index = element + stage[j];
    if (output.wide != 0) {
      in_global<int64_t>(output.indices)[place + j] = index;
    } else {
      in_global<int32_t>(output.indices)[place + j] = static_cast<int32_t>(index);
    }
  }
  __syncwarp();
  return total;
}

// Writes all `total` positions of a tile whose bits stand in `words`.
__device__ inline void emit_tile(const uint32_t* words, int64_t total, int64_t element, const Output& output,
                                 int64_t place, uint16_t* stage) {
  if (total <= kStage) {
    emit<kTileWords / kWarp>(words, 0, element, output, place, stage);
  } else {
    for (int word = 0; word < kTileWords; word += kWarp) {
      place += emit<1>(words, word, element, output, place, stage);
    }
  }
}

// Sets the bits of the tile's selected candidates; `ties` of those that equal the threshold, in order of position.
template <typename Key>
__device__ inline void set_candidates(const Plan<Key>& plan, Key threshold, int64_t ties, int64_t tile,
                                      uint32_t* words) {
  const int64_t slice = plan.tile_slice[tile];
  const int64_t count = plan.tile_between[tile];
  for (int64_t c = 0; c < count; c += kWarp) {
    const bool present = c + lane_id() < count;
    const Key key = present ? plan.candidates[slice + c + lane_id()] : Key{0};
    const bool tied = present && key == threshold;
    const uint32_t tied_lanes = __ballot_sync(kAllLanes, tied);
    const int rank = __popc(tied_lanes & ((1u << lane_id()) - 1u));
    if (present && (key > threshold || (tied && rank < ties))) {
      const int position = plan.candidate_positions[slice + c + lane_id()];
      atomicOr(&words[position / 32], 1u << (position % 32));
    }
    ties -= __popc(tied_lanes);
  }
}

// Sets the first `ties` of the bits in `tied`, in order of position.
__device__ inline void set_ties(const uint32_t* tied, int64_t ties, uint32_t* words) {
  constexpr int per_lane = kTileWords / kWarp;
  int64_t mine = 0;
  for (int i = 0; i < per_lane; ++i) mine += __popc(tied[per_lane * lane_id() + i]);
  int64_t left = ties - warp_exclusive_sum(mine);
  for (int i = 0; i < per_lane; ++i) {
    const int word = per_lane * lane_id() + i;
    for (uint32_t bits = tied[word]; bits != 0 && left > 0; bits &= bits - 1, --left) {
      words[word] |= bits & (~bits + 1u);
    }
  }
}

template <typename Key>
__global__ void __launch_bounds__(kThreads, 4) write_kernel(Plan<Key> plan, const Output* outputs) {
  __shared__ uint32_t all_words[kWarpsPerBlock][kTileWords];
  __shared__ uint16_t all_stages[kWarpsPerBlock][kStage];
  uint32_t* words = all_words[warp_in_block()];
  uint16_t* stage = all_stages[warp_in_block()];
  for_each_tile(plan, [&](int64_t tile) {
    const int32_t s = segment_of_tile(plan, tile);
    const KeySegment& segment = plan.segments[s];
    const GroupState<Key>& state = plan.states[segment.group];
    const GroupSums<Key> sums(plan, segment.group);
    const int64_t before = sums.before(tile);
    const int64_t total = sums.before(tile + 1) - before;
    if (total == 0) return;
    for (int w = lane_id(); w < kTileWords; w += kWarp) {
      const int64_t at = tile * kTileWords + w;
      words[w] = plan.above[at] | (plan.taken != nullptr ? plan.taken[at] : 0u);
    }
    __syncwarp();
    const int64_t ties = sums.ties_left(tile);
    if (state.by_ties != 0) {
      set_ties(plan.between + tile * kTileWords, ties, words);
    } else {
      set_candidates(plan, state.threshold, ties, tile, words);
    }
    __syncwarp();
    const Output& output = outputs[s];
    int64_t place = before;
    if (output.in_group == 0) place -= sums.before(segment.first_tile);
    const int64_t element = (tile - segment.first_tile) * kTile - segment.lead;
    emit_tile(words, total, element, output, place, stage);
  });
}

}  // namespace fgunlearn::cuda
