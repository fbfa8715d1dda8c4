// What the threads of a block do together. All threads must take part in each call; the block's size is a multiple
// of 32.
#pragma once

#include "cuda/warp.h"

namespace fgunlearn::cuda {

// The sum over the threads before this one; `total` gets the sum over all. `scratch` holds one value per warp, and one
// more, and may be used again after the next barrier.
template <typename T>
__device__ inline T block_exclusive_sum(T value, T* scratch, T& total) {
  const int warps = static_cast<int>(blockDim.x) >> 5;
  const T before_in_warp = warp_exclusive_sum(value);
  if (lane_id() == 31) scratch[warp_in_block()] = before_in_warp + value;
  __syncthreads();
  if (warp_in_block() == 0) {
    const T of_warp = lane_id() < warps ? scratch[lane_id()] : T(0);
    const T before = warp_exclusive_sum(of_warp);
    if (lane_id() < warps) scratch[lane_id()] = before;
    if (lane_id() == 31) scratch[warps] = before + of_warp;
  }
  __syncthreads();
  total = scratch[warps];
  return scratch[warp_in_block()] + before_in_warp;
}

}  // namespace fgunlearn::cuda
