// Walking all elements of many contiguous tensors in one launch, at memory speed.
//
// A block takes a tile of one tensor at a time, a thread 16 bytes of it at a time, and asks for several of them before
// it uses the first. Four loads of 16 bytes by each of 6 * 256 threads keep 96 KiB in flight per multiprocessor, about
// three times what latency times bandwidth asks for: what a block spends between its tiles is hidden by the others.
#pragma once

#include <type_traits>
#include <vector>

#include "cuda/table.h"

namespace fgunlearn::cuda {

constexpr int kTileBytes = 32 << 10;  // of one tensor that a block takes at a time: 8 vectors per thread
static_assert(kTileBytes % (16 * kThreads) == 0);

// Blocks per multiprocessor: with at most 40 registers per thread all of them run at once, on sm_80 and everything
// after it, and none waits for another to end. For __launch_bounds__.
constexpr int kDenseBlocks = 6;

constexpr int kVectorBytes = 16;
template <typename T>
constexpr int kVectorLanes = kVectorBytes / static_cast<int>(sizeof(T));

// The elements of one vector. Loaded as words, since the compiler splits wide vectors of 16-bit elements.
template <typename T>
struct Lanes {
  T lane[kVectorLanes<T>];
};

__device__ inline bool is_vector_aligned(const void* data) {
  return (reinterpret_cast<uintptr_t>(data) & (kVectorBytes - 1)) == 0;
}

// One contiguous tensor: the member `at` of the entries of the tables below.
struct Dense {
  int64_t numel;
  int64_t first_tile;  // of the tensor's tiles among those of all tensors
  DType dtype;
};

FGU_HOST_DEVICE int64_t dense_tile(DType dtype) { return kTileBytes / item_size(dtype); }

FGU_HOST_DEVICE int64_t dense_tiles(const Dense& at) {
  const int64_t tile = dense_tile(at.dtype);
  return (at.numel + tile - 1) / tile;
}

// A table with one entry per tensor, in device memory, and the number of its tiles.
template <typename Entry>
struct DenseTable {
  const Entry* entries;
  int32_t tensors;
  int64_t tiles;
};

// Fills in each entry's at.first_tile, and uploads the table.
template <typename Entry>
DenseTable<Entry> dense_table(const Context& context, std::vector<Entry>& entries) {
  int64_t tiles = 0;
  for (Entry& entry : entries) {
    entry.at.first_tile = tiles;
    tiles += dense_tiles(entry.at);
  }
  return {upload(context, entries), static_cast<int32_t>(entries.size()), tiles};
}

// Blocks for a kernel that walks the table; 0 where there is nothing to walk.
template <typename Entry>
unsigned dense_grid(const Context& context, const DenseTable<Entry>& table) {
  return table.tiles == 0 ? 0u : looping_grid(context, table.tiles, 1, kDenseBlocks);
}

// Elements [begin, begin + count) of one tensor.
struct Tile {
  int64_t number;  // among the tiles of all tensors
  int32_t tensor;
  int32_t count;
  int64_t begin;
};

// Calls body(entry, tile) for each tile, with all threads of a block.
template <typename Entry, typename Body>
__device__ inline void for_each_tile(const DenseTable<Entry>& table, Body&& body) {
  for (int64_t number = blockIdx.x; number < table.tiles; number += gridDim.x) {
    const int32_t t =
        item_of_tile(table.tensors, number, [&](int32_t item) { return table.entries[item].at.first_tile; });
    const Entry& entry = table.entries[t];
    const int64_t length = dense_tile(entry.at.dtype);
    const int64_t begin = (number - entry.at.first_tile) * length;
    const int64_t rest = entry.at.numel - begin;
    body(entry, Tile{number, t, static_cast<int32_t>(rest < length ? rest : length), begin});
  }
}

// Shares items [0, count) of a tile among the block's threads: use(item, load(item)), ascending in each thread, with
// kInFlight loads asked for before the first is used. `use` may write where `load` of the same item read.
template <int kInFlight, typename Load, typename Use>
__device__ inline void for_each_in_flight(int32_t count, Load&& load, Use&& use) {
  int32_t item = static_cast<int32_t>(threadIdx.x);
  for (; item + (kInFlight - 1) * kThreads < count; item += kInFlight * kThreads) {
    std::decay_t<decltype(load(item))> held[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) held[i] = load(item + i * kThreads);
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) use(item + i * kThreads, held[i]);
  }
#pragma unroll 1
  for (; item < count; item += kThreads) use(item, load(item));
}

}  // namespace fgunlearn::cuda
