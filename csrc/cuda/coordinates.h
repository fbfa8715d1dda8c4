// Walking the selected coordinates of many tensors in one launch.
//
// One thread takes one coordinate at a time. At k/n of 1% each access to a parameter is a 32-byte sector of its own,
// and the 1,024 to 2,048 threads of a multiprocessor with one such load each keep 32 to 64 KiB in flight, more than
// latency times bandwidth asks for.
#pragma once

#include <algorithm>
#include <vector>

#include "core/segment.h"
#include "cuda/dispatch.h"
#include "cuda/table.h"

namespace fgunlearn::cuda {

constexpr int64_t kCoordinateTile = 1024;  // coordinates of one tensor that a block takes at a time

// One tensor's selection and where its elements lie: the member `at` of the entries of the tables below.
struct Coordinates {
  IndexList index;
  int64_t numel;       // of the tensor
  int64_t first_tile;  // of the list's tiles among those of all lists
  DType dtype;         // of the tensor
  Layout layout;       // of the tensor
};

// A table with one entry per tensor, in device memory, and the number of its tiles.
template <typename Entry>
struct CoordinateTable {
  const Entry* entries;
  int32_t lists;
  int64_t tiles;
};

// Fills in each entry's `at`, and uploads the table.
template <typename Entry>
CoordinateTable<Entry> coordinate_table(const Context& context, std::vector<Entry>& entries,
                                        const std::vector<Segment>& segments, const std::vector<IndexList>& indices) {
  int64_t tiles = 0;
  for (size_t t = 0; t < entries.size(); ++t) {
    entries[t].at = {indices[t], segments[t].numel, tiles, segments[t].dtype, segments[t].layout};
    tiles += (indices[t].count + kCoordinateTile - 1) / kCoordinateTile;
  }
  return {upload(context, entries), static_cast<int32_t>(entries.size()), tiles};
}

// Whether every tensor is contiguous, as parameters mostly are. The divisions of the other layouts take registers, and
// so blocks, from a kernel that has them, whether or not they are done: such a kernel is compiled for both.
inline bool all_contiguous(const std::vector<Segment>& segments) {
  return std::all_of(segments.begin(), segments.end(), [](const Segment& one) { return one.layout.ndim == 0; });
}

template <bool kContiguous>
__device__ inline int64_t place_of(const Layout& layout, int64_t index) {
  if constexpr (kContiguous) return index;
  return layout(index);
}

// An index is a promise of the caller's that a kernel cannot report on without a synchronisation. A broken one stops
// the kernel before anything is read or written out of bounds, as torch's own indexing does.
__device__ inline void stop_unless(bool condition) {
  if (!condition) __trap();
}

__device__ inline int64_t index_at(const IndexList& list, int64_t j) {
  return list.wide ? in_global<int64_t>(list.data)[j] : in_global<int32_t>(list.data)[j];
}

// Calls body(entry, j, index) for coordinate j of each list, index its C-order flat index into the tensor.
template <typename Entry, typename Body>
__device__ inline void for_each_coordinate(const CoordinateTable<Entry>& table, Body&& body) {
  for (int64_t tile = blockIdx.x; tile < table.tiles; tile += gridDim.x) {
    const int32_t t = item_of_tile(table.lists, tile, [&](int32_t item) { return table.entries[item].at.first_tile; });
    const Entry& entry = table.entries[t];
    const int64_t begin = (tile - entry.at.first_tile) * kCoordinateTile;
    const int64_t end = begin + kCoordinateTile < entry.at.index.count ? begin + kCoordinateTile : entry.at.index.count;
    for (int64_t j = begin + threadIdx.x; j < end; j += kThreads) {
      const int64_t index = index_at(entry.at.index, j);
      stop_unless(index >= 0 && index < entry.at.numel);
      body(entry, j, index);
    }
  }
}

// Blocks for a kernel that walks the table; 0 where there is nothing to walk.
template <typename Entry>
unsigned coordinate_grid(const Context& context, const CoordinateTable<Entry>& table) {
  return table.tiles == 0 ? 0u : looping_grid(context, table.tiles, 1);
}

}  // namespace fgunlearn::cuda
