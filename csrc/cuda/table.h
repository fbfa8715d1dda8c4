// Tables in device memory that describe a list of tensors, so that one launch serves them all.
#pragma once

#include <type_traits>
#include <vector>

#include "core/segment.h"
#include "cuda/launch.h"

namespace fgunlearn::cuda {

// A copy of the table in device memory, in stream order. A few hundred tensors take one launch.
template <typename Entry>
Entry* upload(const Context& context, const std::vector<Entry>& table) {
  static_assert(std::is_trivially_copyable_v<Entry> && sizeof(Entry) % 4 == 0);
  Entry* device = context.allocate<Entry>(static_cast<int64_t>(table.size()));
  upload(context, table.data(), static_cast<int64_t>(table.size() * sizeof(Entry)), device);
  return device;
}

// The item that tile `tile` belongs to, given each item's first tile in ascending order: the last one that begins at or
// before it. Items without tiles share their first tile with the next one and are never the last to begin there.
template <typename FirstTile>
__device__ inline int32_t item_of_tile(int32_t items, int64_t tile, FirstTile&& first_tile) {
  int32_t low = 0;
  int32_t high = items;  // first_tile(low) <= tile, and tile < first_tile(high) where there is one
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    if (first_tile(middle) <= tile) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

}  // namespace fgunlearn::cuda
