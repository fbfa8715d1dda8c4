// What a launcher gets from its caller, and how it starts a kernel. No torch here: the stream and the device memory are
// handed in.
//
// Everything is enqueued on one stream and nothing waits for the host, so a launcher can be captured into a CUDA graph
// unless its header says that it reads something back.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

namespace fgunlearn::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

class Context {
 public:
  // Device memory of at least `bytes` bytes, aligned to 256, that stays until the work enqueued on the stream is done.
  using Allocate = std::function<void*(int64_t bytes)>;

  Context(cudaStream_t stream, int multiprocessors, Allocate allocate)
      : stream_(stream), multiprocessors_(multiprocessors), allocate_(std::move(allocate)) {}

  cudaStream_t stream() const { return stream_; }
  int multiprocessors() const { return multiprocessors_; }

  // Uninitialised. Never null, so that an empty list needs no special case.
  template <typename T>
  T* allocate(int64_t count) const {
    return static_cast<T*>(allocate_(std::max<int64_t>(count, 1) * static_cast<int64_t>(sizeof(T))));
  }

  template <typename T>
  T* allocate_zeroed(int64_t count) const {
    T* memory = allocate<T>(count);
    check(cudaMemsetAsync(memory, 0, static_cast<size_t>(count) * sizeof(T), stream_), "cudaMemsetAsync");
    return memory;
  }

  // Waits for the stream. The one host synchronisation there is.
  template <typename T>
  void read_back(T* host, const T* device, int64_t count) const {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "cudaMemcpyAsync");
    check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }

 private:
  cudaStream_t stream_;
  int multiprocessors_;
  Allocate allocate_;
};

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // per block, where a kernel's header does not say otherwise

inline unsigned grid_of(int64_t blocks) {
  if (blocks > 0x7fffffffll) throw std::runtime_error("a grid of " + std::to_string(blocks) + " blocks is too large");
  return static_cast<unsigned>(blocks);
}

// Blocks for a kernel that loops over `items`, each block taking `per_block` of them at a time: enough to fill the
// device `waves` blocks deep on each multiprocessor, and no more than there is work for.
inline unsigned looping_grid(const Context& context, int64_t items, int64_t per_block, int waves = 8) {
  const int64_t wanted = (items + per_block - 1) / per_block;
  return grid_of(std::clamp<int64_t>(wanted, 1, int64_t{context.multiprocessors()} * waves));
}

// Parameters are converted to the kernel's own types, so that a literal or an int does not change its layout.
template <typename... Params, typename... Args>
void launch([[maybe_unused]] const Context& context, void (*kernel)(Params...), unsigned blocks, int threads,
            Args&&... args) {
  if (blocks == 0) return;
#if defined(__CUDACC__)
  kernel<<<blocks, static_cast<unsigned>(threads), 0, context.stream()>>>(static_cast<Params>(args)...);
  check(cudaGetLastError(), "kernel launch");
#else
  shim::launch(blocks, static_cast<unsigned>(threads), [&] { kernel(static_cast<Params>(args)...); });
#endif
}

}  // namespace fgunlearn::cuda
