// What the lanes of a warp do together. All 32 lanes must take part in each call.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fgunlearn::cuda {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x) & 31; }
__device__ inline int warp_in_block() { return static_cast<int>(threadIdx.x) >> 5; }

template <typename T>
__device__ inline T warp_sum(T value) {
  for (int step = 16; step > 0; step >>= 1) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// The sum over the lanes below this one.
template <typename T>
__device__ inline T warp_exclusive_sum(T value) {
  const int lane = lane_id();
  T inclusive = value;
  for (int step = 1; step < 32; step <<= 1) {
    const T below = __shfl_up_sync(kAllLanes, inclusive, step);
    if (lane >= step) inclusive += below;
  }
  return inclusive - value;
}

// Bits whose index, counted in blocks of kBlock bits, has the bit `step` clear.
template <int kBlock>
__device__ constexpr uint32_t even_blocks(int step) {
  uint32_t mask = 0;
  for (int bit = 0; bit < 32; ++bit) {
    if (((bit / kBlock) & step) == 0) mask |= 1u << bit;
  }
  return mask;
}

// Lanes in teams of 32 / kBlock, each holding 32 / kBlock blocks of kBlock bits: lane r of a team gets block r of every
// member, in the order of the members. A transpose, in log2 exchanges.
template <int kBlock>
__device__ inline uint32_t transpose_blocks(uint32_t bits) {
  constexpr int team = 32 / kBlock;
  const int rank = lane_id() % team;
#pragma unroll
  for (int step = 1; step < team; step <<= 1) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, bits, step);
    const uint32_t even = even_blocks<kBlock>(step);
    const int shift = kBlock * step;
    bits = (rank & step) == 0 ? (bits & even) | ((other & even) << shift) : (bits & ~even) | ((other & ~even) >> shift);
  }
  return bits;
}

}  // namespace fgunlearn::cuda
