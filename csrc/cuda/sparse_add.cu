#include "cuda/sparse_add.h"

#include "cuda/coordinates.h"
#include "cuda/nvtx.h"

namespace fgunlearn::cuda {

namespace {

// One tensor needs no table: it comes with the parameters.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    sparse_add_kernel(T* out, int64_t numel, IndexList indices, const void* delta, DType delta_dtype) {
  using A = typename Convert<T>::accumulate_t;
  const int64_t step = int64_t{kThreads} * gridDim.x;
  for (int64_t j = int64_t{kThreads} * blockIdx.x + threadIdx.x; j < indices.count; j += step) {
    const int64_t index = indices[j];
    stop_unless(index >= 0 && index < numel);
    A added{};
    device_dispatch(delta_dtype, [&](auto tag) {
      using D = decltype(tag);
      added = static_cast<A>(Convert<D>::load(in_global<D>(delta)[j]));
    });
    out[index] = Convert<T>::store(Convert<T>::load(out[index]) + added);
  }
}

}  // namespace

void sparse_add(const Context& context, const Segment& out, const IndexList& index, const Segment& delta) {
  const Range range("fgunlearn::sparse_add");
  if (index.count == 0) return;
  dispatch(out.dtype, [&](auto tag) {
    using T = decltype(tag);
    launch(context, sparse_add_kernel<T>, looping_grid(context, index.count, kThreads), kThreads, out.data, out.numel,
           index, delta.data, delta.dtype);
  });
}

}  // namespace fgunlearn::cuda
