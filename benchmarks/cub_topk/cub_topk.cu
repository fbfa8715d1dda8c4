// cub::DeviceTopK as a C function, a peer of fgunlearn's selection. It gives the k pairs in no particular order, and
// which of several equal keys it takes may differ between runs.
#include <cstdint>
#include <cub/device/device_topk.cuh>
#include <cub/version.cuh>
#include <cuda/functional>
#include <cuda/iterator>
#include <cuda/std/execution>
#include <cuda/stream_ref>

static_assert(CUB_VERSION >= 300200, "cub::DeviceTopK takes pairs and requirements from CUB 3.2 on");

namespace {

struct Magnitude {
  __host__ __device__ float operator()(float x) const { return fabsf(x); }
};

template <typename Keys>
cudaError_t largest(void* workspace, size_t& bytes, Keys keys, float* keys_out, uint32_t* index_out, uint32_t n,
                    uint32_t k, cudaStream_t stream) {
  const auto requirements = cuda::execution::require(cuda::execution::determinism::not_guaranteed,
                                                     cuda::execution::output_ordering::unsorted);
  const auto environment = cuda::std::execution::env{cuda::stream_ref{stream}, requirements};
  return cub::DeviceTopK::MaxPairs(workspace, bytes, keys, keys_out, cuda::counting_iterator<uint32_t>(0), index_out, n,
                                   k, environment);
}

}  // namespace

// The k largest of n keys and their positions. Without a workspace it only says how many bytes that must have.
// `magnitudes`: take |key|, as each is read; otherwise the keys as they are, which lets it load whole vectors.
// Returns a cudaError_t.
extern "C" __attribute__((visibility("default"))) int fgunlearn_cub_topk(const float* keys, uint32_t n, uint32_t k,
                                                                         float* keys_out, uint32_t* index_out,
                                                                         int magnitudes, void* workspace, size_t* bytes,
                                                                         cudaStream_t stream) {
  if (magnitudes != 0) {
    return largest(workspace, *bytes, cuda::transform_iterator(keys, Magnitude{}), keys_out, index_out, n, k, stream);
  }
  return largest(workspace, *bytes, keys, keys_out, index_out, n, k, stream);
}
