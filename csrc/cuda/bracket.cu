#include "cuda/bracket.h"

#include "core/bracket.h"
#include "cuda/select_pipeline.h"

namespace fgunlearn::cuda {

namespace {

// Which of the kCount elements from `element` on a tensor of `numel` has.
template <int kCount>
__device__ inline uint32_t inside(int64_t element, int64_t numel) {
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (element + i >= 0 && element + i < numel) bits |= 1u << i;
  }
  return bits;
}

// Counts one tile's keys, by all lanes of a warp.
template <typename T, typename Key, typename Count>
__device__ inline void count_tile(const KeySegment& segment, int64_t tile_begin, const KeyBins<Key>& bins,
                                  Count* counts) {
  constexpr int per_vector = kPerVector<T>;
  constexpr int vectors = 32 / per_vector;
  constexpr int batch = vectors < MemoryLoad<T>::kInFlight ? vectors : MemoryLoad<T>::kInFlight;
  constexpr int64_t stride = int64_t{kWarp} * per_vector;
  const MemoryLoad<T> load{segment};
  const Limits<T> limits(bins.low, bins.low, false);
  const int64_t end = segment.lead + segment.numel;  // a position
  for (int64_t begin = tile_begin; begin < tile_begin + kTile && begin < end; begin += kWarp * per_vector * batch) {
    const bool whole = begin >= segment.lead && begin + stride * batch <= end;
    const int64_t position = begin + per_vector * lane_id();
    union Elements {
      uint4 vector;
      T at[per_vector];
    };
    uint4 vector[batch];
    load(position, vector);
#pragma unroll
    for (int v = 0; v < batch; ++v) {
      LaneBits bits;
      compare<T>(vector[v], limits, 0, bits);
      uint32_t counted = bits.at_least;
      if (!whole) counted &= inside<per_vector>(position + stride * v - segment.lead, segment.numel);
      if (__any_sync(kAllLanes, counted != 0) == 0) continue;
      const Elements elements{vector[v]};
#pragma unroll
      for (int i = 0; i < per_vector; ++i) {
        const auto slot = static_cast<int>(bins.slot(key_of<Key>(elements.at[i])));
        count_bin(((counted >> i) & 1u) != 0, slot, counts);
      }
    }
  }
}

template <typename Key, typename Count>
__device__ inline void count_tiles(const KeyTable& keys, const KeyBins<Key>& bins, Count* counts) {
  for_each_tile(keys, [&](int64_t tile) {
    const KeySegment segment = keys.segments[segment_of_tile(keys, tile)];
    device_dispatch(segment.dtype, [&](auto tag) {
      using T = decltype(tag);
      if constexpr (sizeof(T) <= sizeof(Key)) {
        count_tile<T>(segment, (tile - segment.first_tile) * kTile, bins, counts);
      }
    });
  });
}

constexpr int kBlocksPerMultiprocessor = 3;  // that count in shared memory, and add to the others' once
constexpr int64_t kTilesPerBlock = int64_t{1} << 18;
static_assert((kTilesPerBlock + kWarpsPerBlock) * kTile < int64_t{1} << 32, "a block's counts are 32 bits wide");

// Counts in shared memory, with room for kSlots counters, and then adds to out.
template <typename Key, int kSlots>
__global__ void __launch_bounds__(kThreads, sizeof(Key) == 8 ? 2 : 3)
    histogram_kernel(KeyTable keys, KeyBins<Key> bins, unsigned long long* out) {
  __shared__ uint32_t counts[kSlots];
  const int slots = static_cast<int>(bins.bins) + 2;
  for (int slot = static_cast<int>(threadIdx.x); slot < slots; slot += kThreads) counts[slot] = 0;
  __syncthreads();
  count_tiles(keys, bins, counts);
  __syncthreads();
  for (int slot = static_cast<int>(threadIdx.x); slot < slots; slot += kThreads) {
    if (counts[slot] != 0) atomicAdd(&out[slot], static_cast<unsigned long long>(counts[slot]));
  }
}

// The same where there are too many bins for that.
template <typename Key>
__global__ void __launch_bounds__(kThreads, sizeof(Key) == 8 ? 2 : 3)
    global_histogram_kernel(KeyTable keys, KeyBins<Key> bins, unsigned long long* out) {
  count_tiles(keys, bins, out);
}

template <typename Key>
void histogram(const Context& context, const std::vector<Segment>& segments, const KeyBins<Key>& bins, int64_t* out) {
  constexpr int few = 2048 + 2;
  constexpr int many = 8192 + 2;
  static_assert(sizeof(unsigned long long) == sizeof(int64_t));
  auto* counts = reinterpret_cast<unsigned long long*>(out);
  const int64_t slots = int64_t{bins.bins} + 2;
  check(cudaMemsetAsync(out, 0, static_cast<size_t>(slots) * sizeof(int64_t), context.stream()), "cudaMemsetAsync");
  const KeyTable keys = key_table(context, request_of(memory_segments(segments), {0}, false).segments);
  if (slots > many) {
    launch(context, global_histogram_kernel<Key>, tile_grid(context, keys), kThreads, keys, bins, counts);
    return;
  }
  const unsigned blocks = std::max(looping_grid(context, keys.tiles, kWarpsPerBlock, kBlocksPerMultiprocessor),
                                   grid_of(keys.tiles / kTilesPerBlock + 1));
  const auto kernel = slots > few ? histogram_kernel<Key, many> : histogram_kernel<Key, few>;
  launch(context, kernel, blocks, kThreads, keys, bins, counts);
}

// Per segment, how many keys are above the bracket and how many in it.
template <typename Key>
__global__ void __launch_bounds__(kThreads) split_counts_kernel(Plan<Key> plan, int64_t* above, int64_t* between) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= plan.segment_count) return;
  const int64_t begin = plan.segments[i].first_tile;
  const int64_t end = first_tile_of(plan, static_cast<int32_t>(i) + 1);
  above[i] = plan.certain_before[end] - plan.certain_before[begin];
  between[i] = plan.ties_before[end] - plan.ties_before[begin];
}

// Writes the positions of `bits` (kTileWords words per tile), `before` of which stand in the tiles before each.
__global__ void __launch_bounds__(kThreads, 4)
    write_bits_kernel(KeyTable keys, const uint32_t* bits, const int64_t* before, const Output* outputs) {
  __shared__ uint32_t all_words[kWarpsPerBlock][kTileWords];
  __shared__ uint16_t all_stages[kWarpsPerBlock][kStage];
  uint32_t* words = all_words[warp_in_block()];
  uint16_t* stage = all_stages[warp_in_block()];
  for_each_tile(keys, [&](int64_t tile) {
    const int64_t total = before[tile + 1] - before[tile];
    if (total == 0) return;
    for (int w = lane_id(); w < kTileWords; w += kWarp) words[w] = bits[tile * kTileWords + w];
    __syncwarp();
    const int32_t s = segment_of_tile(keys, tile);
    const KeySegment& segment = keys.segments[s];
    const int64_t element = (tile - segment.first_tile) * kTile - segment.lead;
    emit_tile(words, total, element, outputs[s], before[tile] - before[segment.first_tile], stage);
  });
}

Selected selected_bits(const KeyTable& keys, const uint32_t* bits, const int64_t* before, std::vector<int64_t> counts) {
  const auto write = [keys, bits, before](const Context& context, const std::vector<Output>& outputs) {
    launch(context, write_bits_kernel, tile_grid(context, keys), kThreads, keys, bits, before,
           upload(context, outputs));
  };
  return Selected(std::move(counts), {}, write);
}

// A selection's pass over a plateau, which keeps the bits of both: here the bracket may be wider than one key.
template <typename Key>
std::pair<Selected, Selected> split(const Context& context, const std::vector<Segment>& segments,
                                    const Bracket<Key>& bracket) {
  Plan<Key> plan{};
  static_cast<KeyTable&>(plan) = key_table(context, request_of(memory_segments(segments), {0}, false).segments);
  GroupState<Key> state{};
  state.phase = Phase::plateau;
  state.low = bracket.low;
  state.high = bracket.high;
  plan.group_count = 1;
  plan.states = upload(context, std::vector<GroupState<Key>>{state});
  allocate_bits(context, plan);
  plan.tile_certain = plan.tile_above;
  plan.tile_ties = plan.tile_between;
  launch(context, classify_kernel<Key, MemoryKeys>, tile_grid(context, plan), kThreads, plan, MemoryKeys{false});
  sum_tiles(context, plan);
  const auto n = static_cast<int64_t>(segments.size());
  int64_t* counts = context.allocate<int64_t>(2 * n);  // of those above, and then of those between
  launch(context, split_counts_kernel<Key>, grid_of((n + kThreads - 1) / kThreads), kThreads, plan, counts, counts + n);
  std::vector<int64_t> found(2 * segments.size());
  if (n > 0) context.read_back(found.data(), counts, 2 * n);
  std::vector<int64_t> above(found.begin(), found.begin() + n);
  std::vector<int64_t> between(found.begin() + n, found.end());
  return {selected_bits(plan, plan.above, plan.certain_before, std::move(above)),
          selected_bits(plan, plan.between, plan.ties_before, std::move(between))};
}

}  // namespace

void bracket_histogram(const Context& context, const std::vector<Segment>& segments, int64_t low, int64_t shift,
                       int64_t bins, bool wide, int64_t* out) {
  const Range range("fgunlearn::bracket_histogram");
  if (wide) {
    histogram(context, segments, key_bins<uint64_t>(low, shift, bins), out);
  } else {
    histogram(context, segments, key_bins<uint32_t>(low, shift, bins), out);
  }
}

std::pair<Selected, Selected> bracket_split(const Context& context, const std::vector<Segment>& segments, int64_t low,
                                            int64_t high, bool wide) {
  const Range range("fgunlearn::bracket_split");
  if (wide) return split(context, segments, key_bracket<uint64_t>(low, high));
  return split(context, segments, key_bracket<uint32_t>(low, high));
}

}  // namespace fgunlearn::cuda
