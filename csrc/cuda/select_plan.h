// What the kernels of a selection share: the tables that describe its keys, and its workspace.
//
// Words used here. A segment is one tensor. A group is what is ranked together: all segments, or each by itself. A
// position is an element's place within its segment's tiles: element + lead, where lead makes position 0 an aligned
// address (or, for Random-k, the first of 64 indices that share Philox counters). A tile is 8,192 positions of one
// segment, the work of one warp; its bits are 256 words, so that bit b of word w is position 32 w + b.
//
// A bracket [low, high) of keys is to hold the k-th: keys >= high are selected for certain and become bits of `above`,
// those between go into a buffer of candidates, each tile's as a slice in order of position. Where the bracket is one
// key (a plateau of ties) nothing is buffered: the ties become bits of `between`.
#pragma once

#include <cstdint>

#include "core/segment.h"
#include "core/select.h"
#include "cuda/table.h"
#include "cuda/warp.h"

namespace fgunlearn::cuda {

constexpr int kChunk = 1024;  // positions for which each lane of a warp holds 32 bits
constexpr int kChunksPerTile = 8;
constexpr int kTile = kChunk * kChunksPerTile;
constexpr int kTileWords = kTile / 32;
constexpr int kWarpsPerBlock = kThreads / kWarp;

constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;

// Keys of a 32-bit type have 31 bits, of a 64-bit type 63.
template <typename Key>
constexpr int kKeyBits = static_cast<int>(sizeof(Key)) * 8 - 1;
template <typename Key>
constexpr int kDigits = (kKeyBits<Key> + kDigitBits - 1) / kDigitBits;

struct KeySegment {
  const void* data = nullptr;
  const void* grad = nullptr;  // of the fused score, else null
  int64_t numel = 0;
  int64_t offset = 0;  // global index of the first element
  int64_t first_tile = 0;
  int32_t group = 0;
  int32_t lead = 0;
  DType dtype = DType::f32;
  DType grad_dtype = DType::f32;
};

struct Group {
  int64_t n = 0;
  int64_t k = 0;
  int64_t offset = 0;  // global index of its first element
  int32_t first_segment = 0;
  int32_t end_segment = 0;
  int64_t sample_begin = 0;
  int64_t sample_size = 0;  // 0: every key is a candidate
  int64_t candidates = 0;   // room for them in the buffer, from candidate_begin on
  int64_t candidate_begin = 0;
  int64_t first_tile = 0;
  SampleRanks ranks = {0, 0};
};

enum class Phase : int32_t {
  bracket,  // [low, high) is a guess from a sample: keys inside are buffered
  plateau,  // [low, high) is one key, perhaps the k-th
  radix,    // no guess: histograms over all keys
  ranked,   // the k-th is in the buffer: histograms over it
  settled,  // threshold and ties are known
  failed,   // the keys changed meanwhile, or a bracket given from outside does not hold the k-th
};

template <typename Key>
struct GroupState {
  Phase phase;
  int32_t by_ties;  // settled by bits of `between`, not by candidates
  Key low;
  Key high;
  unsigned long long above;    // keys >= high that this pass has met
  unsigned long long between;  // keys of [low, high); of a bracket also those that found no room in the buffer
  // The need-th largest (1 = largest) of those key - base that agree with prefix above bit `bits` is looked for.
  Key base;
  Key prefix;
  int32_t bits;
  int32_t exact;  // a plateau that radix histograms found
  int64_t need;
  int64_t candidates;  // in the buffer
  Key threshold;
  int64_t ties;  // how many of the keys equal to the threshold are selected, smallest index first
};

// The keys: segments, and how many tiles they have.
struct KeyTable {
  const KeySegment* segments;
  int32_t segment_count;
  int64_t tiles;
};

template <typename Key>
struct Plan : KeyTable {
  const Group* groups;
  int32_t group_count;
  int64_t sample_total;
  int32_t finite_only;  // infinity is a bad key too
  int32_t preset;       // the brackets came from outside

  GroupState<Key>* states;   // per group
  unsigned long long* bins;  // per group kBins, zero between two digits
  uint32_t* bad_key;         // set by a key that is NaN, or that must be finite and is not
  Key* sample;
  uint32_t* above;        // kTileWords per tile
  uint32_t* between;      // the same, of plateaus only
  const uint32_t* taken;  // the same, coordinates that are in the answer already and not to be drawn; or null
  uint32_t* tile_above;   // per tile, like the following
  uint32_t* tile_between;
  int64_t* tile_slice;     // where its candidates begin
  uint32_t* tile_certain;  // selected whatever becomes of the ties
  uint32_t* tile_ties;
  int64_t* certain_before;  // sums over the tiles before, one entry more than tiles
  int64_t* ties_before;
  Key* candidates;
  uint16_t* candidate_positions;  // within their tile
};

static_assert(kTile <= 1 << 16, "candidate_positions are 16 bits wide");

__device__ inline int32_t segment_of_tile(const KeyTable& keys, int64_t tile) {
  return item_of_tile(keys.segment_count, tile, [&](int32_t s) { return keys.segments[s].first_tile; });
}

__device__ inline int64_t first_tile_of(const KeyTable& keys, int32_t segment) {
  return segment < keys.segment_count ? keys.segments[segment].first_tile : keys.tiles;
}

// Calls body(tile) for the tiles that this warp takes by turns.
template <typename Body>
__device__ inline void for_each_tile(const KeyTable& keys, Body&& body) {
  const int64_t warps = int64_t{gridDim.x} * kWarpsPerBlock;
  for (int64_t tile = int64_t{blockIdx.x} * kWarpsPerBlock + warp_in_block(); tile < keys.tiles; tile += warps) {
    body(tile);
  }
}

inline unsigned tile_grid(const Context& context, const KeyTable& keys) {
  return looping_grid(context, keys.tiles, kWarpsPerBlock);
}

}  // namespace fgunlearn::cuda
