// The one pass over the keys: bits of those above the bracket, candidates or ties inside it.
//
// Moves per key of an f32 list: 4 bytes read, 1/8 byte of bits written, and about 0.3% of 6 + 32 bytes for a candidate
// that is written and whose key is read again (a sector of its own: by then it has left the caches). So the floor is
// the read, and at an H200's measured copy bandwidth of 4.3 TB/s 1e9 keys are 0.93 ms. Arithmetic per key: 7
// instructions of a warp for 32 keys of f32 (mask, two compares, two predicated ors, two for a bad key), 4 of the
// 16-bit formats, and 0.8 for the transposes: at one read per 4 bytes a quarter of what a multiprocessor can issue.
// Random-k reads nothing; Philox takes about 20 instructions per key, of which 1e9 are 0.9 ms on 132 multiprocessors
// at 1.7 GHz. (Predictions.)
#pragma once

#include "cuda/coordinates.h"
#include "cuda/select_sources.h"

namespace fgunlearn::cuda {

// The bits of word `word` of a chunk at `begin` that are elements of the segment.
__device__ inline uint32_t element_bits(const KeySegment& segment, int64_t begin, int word) {
  const int64_t first = begin + 32 * word - segment.lead;  // the element of bit 0
  uint32_t bits = 0xffffffffu;
  if (first < 0) bits = first <= -32 ? 0u : bits << static_cast<int>(-first);
  const int64_t left = segment.numel - first;
  if (left < 32) bits &= left <= 0 ? 0u : 0xffffffffu >> static_cast<int>(32 - left);
  return bits;
}

// Appends the `count` keys whose bits stand in `words` to the group's candidates, in order of position. Returns where
// the tile's slice begins; -1 where there is no room.
template <typename Key, typename Source>
__device__ int64_t append_candidates(const Plan<Key>& plan, const Source& source, const KeySegment& segment,
                                     int64_t tile_begin, const uint32_t* words, uint32_t count) {
  const Group& group = plan.groups[segment.group];
  unsigned long long taken = 0;
  if (lane_id() == 0) {
    taken = atomicAdd(&plan.states[segment.group].between, static_cast<unsigned long long>(count));
  }
  taken = __shfl_sync(kAllLanes, taken, 0);
  if (taken + count > static_cast<unsigned long long>(group.candidates)) return -1;
  const int64_t begin = group.candidate_begin + static_cast<int64_t>(taken);
  constexpr int words_per_lane = kTileWords / kWarp;
  uint32_t mine = 0;
  for (int i = 0; i < words_per_lane; ++i) mine += static_cast<uint32_t>(__popc(words[words_per_lane * lane_id() + i]));
  int64_t place = begin + warp_exclusive_sum(mine);
  for (int i = 0; i < words_per_lane; ++i) {
    const int word = words_per_lane * lane_id() + i;
    for (uint32_t left = words[word]; left != 0; left &= left - 1, ++place) {
      const int position = 32 * word + __ffs(static_cast<int>(left)) - 1;
      plan.candidates[place] = source.template stored_key_at<Key>(segment, tile_begin + position - segment.lead);
      plan.candidate_positions[place] = static_cast<uint16_t>(position);
    }
  }
  return begin;
}

// Classifies the tiles of the groups that have a bracket or a plateau.
template <typename Key, typename Source>
__global__ void __launch_bounds__(kThreads, sizeof(Key) == 8 ? 2 : 3) classify_kernel(Plan<Key> plan, Source source) {
  __shared__ uint32_t between_words[kWarpsPerBlock][kTileWords];
  uint32_t* between = between_words[warp_in_block()];
  for_each_tile(plan, [&](int64_t tile) {
    const KeySegment& segment = plan.segments[segment_of_tile(plan, tile)];
    GroupState<Key>& state = plan.states[segment.group];
    const bool plateau = state.phase == Phase::plateau;
    if (!plateau && state.phase != Phase::bracket) return;
    const int64_t tile_begin = (tile - segment.first_tile) * kTile;
    uint32_t above_count = 0;
    uint32_t between_count = 0;
    bool bad = false;
    source.template visit<Key>(segment, state.low, state.high, [&](const auto& reader) {
      for (int chunk = 0; chunk < kChunksPerTile; ++chunk) {
        const int64_t begin = tile_begin + chunk * kChunk;
        const int word = reader.word();
        LaneBits bits;
        if (begin < segment.lead + segment.numel) {
          bits = reader.read(begin);
          const uint32_t valid = element_bits(segment, begin, word);
          bits.above &= valid;
          bits.at_least &= valid & ~bits.above;
        }
        const int64_t at = tile * kTileWords + chunk * (kChunk / 32) + word;
        if (plan.taken != nullptr) {
          bits.above &= ~plan.taken[at];
          bits.at_least &= ~plan.taken[at];
        }
        plan.above[at] = bits.above;
        if (plateau) {
          plan.between[at] = bits.at_least;
        } else {
          between[chunk * (kChunk / 32) + word] = bits.at_least;
        }
        above_count += static_cast<uint32_t>(__popc(bits.above));
        between_count += static_cast<uint32_t>(__popc(bits.at_least));
        bad |= bits.bad;
      }
    });
    above_count = warp_sum(above_count);
    between_count = warp_sum(between_count);
    bad = __any_sync(kAllLanes, bad) != 0;
    __syncwarp();  // the words of `between`, and the scores that were written, are read by other lanes
    int64_t slice = 0;
    if (!plateau && between_count > 0) {
      slice = append_candidates(plan, source, segment, tile_begin, between, between_count);
    }
    if (lane_id() == 0) {
      plan.tile_above[tile] = above_count;
      plan.tile_between[tile] = slice < 0 ? 0 : between_count;  // a slice without room is not to be read
      plan.tile_slice[tile] = slice;
      if (above_count > 0) atomicAdd(&state.above, static_cast<unsigned long long>(above_count));
      if (plateau && between_count > 0) {
        atomicAdd(&state.between, static_cast<unsigned long long>(between_count));
      }
      if (bad) atomicOr(plan.bad_key, 1u);
    }
    __syncwarp();
  });
}

// Sets the bits of indices that are not to be drawn.
template <typename Key>
__global__ void __launch_bounds__(kThreads)
    take_kernel(Plan<Key> plan, const IndexList* lists, const int64_t* first, uint32_t* taken) {
  const int64_t count = first[plan.segment_count];
  for (int64_t j = int64_t{blockIdx.x} * kThreads + threadIdx.x; j < count; j += int64_t{gridDim.x} * kThreads) {
    const int32_t s = item_of_tile(plan.segment_count, j, [&](int32_t item) { return first[item]; });
    const KeySegment& segment = plan.segments[s];
    const int64_t index = index_at(lists[s], j - first[s]);
    stop_unless(index >= 0 && index < segment.numel);
    const int64_t position = index + segment.lead;
    atomicOr(&taken[segment.first_tile * kTileWords + position / 32], 1u << (position % 32));
  }
}

}  // namespace fgunlearn::cuda
