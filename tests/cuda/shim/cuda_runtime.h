// Stands in for CUDA's <cuda_runtime.h>: csrc/cuda compiles as host C++ against it, and its kernels run on the CPU,
// every thread of a block a fiber. Only what csrc/cuda uses is here.
//
// What this shows: indexing, arithmetic, barriers, warp exchanges and launch logic are right, under AddressSanitizer
// and UndefinedBehaviorSanitizer and with blocks and threads in several orders. What it can't show: the memory model of
// blocks that run at the same time, and speed.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static  // blocks run one after another, so the threads of one block share it; it stays dirty

struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

namespace shim {

enum class Order { forward, reverse, shuffled };

// In which order blocks run, and in which the scheduler offers a turn to the threads of a block.
void set_order(Order order, uint64_t seed = 0);

// Runs body once per thread. Throws what a thread throws, and std::logic_error where threads wait for each other in
// vain.
void launch(unsigned blocks, unsigned threads, const std::function<void()>& body);

// Kernels launched since the last call.
int64_t take_launches();

unsigned lane();
void block_barrier();
// What the lanes of a warp do together. All 32 must do the same: on a GPU a lane at a ballot and one at a shuffle do
// not meet.
enum class Meeting { sync, ballot, shuffle };
void warp_barrier(unsigned mask, Meeting meeting);
unsigned char* warp_slots();  // 32 slots of 8 bytes, others every time
[[noreturn]] void trap();

template <typename T>
T exchange(unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8);
  unsigned char* slots = warp_slots();
  std::memcpy(slots + 8 * lane(), &value, sizeof(T));
  warp_barrier(mask, Meeting::shuffle);
  T got;
  std::memcpy(&got, slots + 8 * source, sizeof(T));
  return got;
}

}  // namespace shim

extern uint3 threadIdx;
extern uint3 blockIdx;
extern dim3 blockDim;
extern dim3 gridDim;

inline void __syncthreads() { shim::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { shim::warp_barrier(mask, shim::Meeting::sync); }
inline void __threadfence() {}
inline void __trap() { shim::trap(); }

template <typename T>
T __shfl_sync(unsigned mask, T value, int source) {
  return shim::exchange(mask, value, source & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int step) {
  return shim::exchange(mask, value, static_cast<int>(shim::lane()) ^ step);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned step) {
  const int source = static_cast<int>(shim::lane()) - static_cast<int>(step);
  return shim::exchange(mask, value, source < 0 ? static_cast<int>(shim::lane()) : source);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned step) {
  const int source = static_cast<int>(shim::lane()) + static_cast<int>(step);
  return shim::exchange(mask, value, source > 31 ? static_cast<int>(shim::lane()) : source);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned char* slots = shim::warp_slots();
  slots[8 * shim::lane()] = predicate != 0;
  shim::warp_barrier(mask, shim::Meeting::ballot);
  unsigned bits = 0;
  for (unsigned l = 0; l < 32; ++l) bits |= static_cast<unsigned>(slots[8 * l]) << l;
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(x)); }
template <typename T>
T __ldg(const T* p) {
  return *p;
}

// Threads take turns only at barriers, so plain operations are atomic.
template <typename T, typename U>
T atomicAdd(T* where, U value) {
  const T old = *where;
  *where = static_cast<T>(old + static_cast<T>(value));
  return old;
}
template <typename T, typename U>
T atomicOr(T* where, U value) {
  const T old = *where;
  *where = static_cast<T>(old | static_cast<T>(value));
  return old;
}
template <typename T, typename U>
T atomicMax(T* where, U value) {
  const T old = *where;
  *where = std::max(old, static_cast<T>(value));
  return old;
}

using cudaStream_t = struct shim_stream*;
using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };

inline const char* cudaGetErrorString(cudaError_t) { return "no error"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* where, int value, size_t bytes, cudaStream_t) {
  std::memset(where, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
