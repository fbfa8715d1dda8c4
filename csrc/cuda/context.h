// What a launcher gets from its caller: a stream, and device memory. No torch here, and no device code, so that
// bindings compile against it without nvcc.
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
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // or the next launch, of another op, would find this error and take it for its own
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
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

// Copies host memory to the device in stream order. The values travel as kernel parameters: the host memory need not
// outlive the call, nothing is synchronised, and a captured CUDA graph keeps them. `bytes` is a multiple of 4; up to
// 32,000 of them take one launch.
void upload(const Context& context, const void* from, int64_t bytes, void* to);

}  // namespace fgunlearn::cuda
