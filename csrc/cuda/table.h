// Tables in device memory that describe a list of tensors, so that one launch serves them all.
//
// A table travels as kernel parameters: no host memory has to outlive the call, nothing is synchronised, and a captured
// CUDA graph keeps the values it was captured with. A few hundred tensors take one launch of at most 32,000 bytes.
#pragma once

#include <cstring>
#include <type_traits>
#include <vector>

#include "core/segment.h"
#include "cuda/launch.h"

namespace fgunlearn::cuda {

template <int kBytes>
struct Parcel {
  static_assert(kBytes % 16 == 0);
  uint4 part[kBytes / 16];
};

template <int kBytes>
__global__ void __launch_bounds__(kThreads)
    store_parcel(const __grid_constant__ Parcel<kBytes> parcel, uint4* out, int parts) {
  for (int i = static_cast<int>(threadIdx.x); i < parts; i += kThreads) out[i] = parcel.part[i];
}

template <int kBytes>
void send_parcel(const Context& context, const unsigned char* from, int64_t bytes, unsigned char* to) {
  Parcel<kBytes> parcel;
  std::memset(&parcel, 0, sizeof(parcel));
  std::memcpy(&parcel, from, static_cast<size_t>(bytes));
  launch(context, store_parcel<kBytes>, 1u, kThreads, parcel, reinterpret_cast<uint4*>(to),
         static_cast<int>((bytes + 15) / 16));
}

// A copy of the table in device memory, in stream order.
template <typename Entry>
Entry* upload(const Context& context, const std::vector<Entry>& table) {
  static_assert(std::is_trivially_copyable_v<Entry>);
  constexpr int64_t large = 32000;  // kernel parameters may take 32,764 bytes, from CUDA 12.1 on
  constexpr int64_t small = 2048;
  const int64_t bytes = static_cast<int64_t>(table.size() * sizeof(Entry));
  auto* device = context.allocate<unsigned char>((bytes + 15) / 16 * 16);
  const auto* host = reinterpret_cast<const unsigned char*>(table.data());
  for (int64_t begin = 0; begin < bytes; begin += large) {
    const int64_t count = std::min(large, bytes - begin);
    if (count <= small) {
      send_parcel<small>(context, host + begin, count, device + begin);
    } else {
      send_parcel<large>(context, host + begin, count, device + begin);
    }
  }
  return reinterpret_cast<Entry*>(device);
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
