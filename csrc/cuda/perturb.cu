#include "cuda/perturb.h"

#include <algorithm>

#include "cuda/coordinates.h"
#include "cuda/dense.h"
#include "cuda/nvtx.h"
#include "cuda/warp.h"

namespace fgunlearn::cuda {

namespace {

template <typename T>
__device__ inline double as_double(T x) {
  return static_cast<double>(Convert<T>::load(x));
}

template <typename T>
__device__ inline T from_double(double x) {
  return Convert<T>::store(static_cast<typename Convert<T>::accumulate_t>(x));
}

__device__ inline double draw_at(Draw draw, uint64_t seed, Stream stream, int64_t global) {
  if (draw == Draw::none) return 0.0;
  const Philox4 random = philox4x32(seed, stream, static_cast<uint64_t>(global));
  if (draw == Draw::uniform) return uniform_of(random.word[0]);
  return cos_turn(random.word[1]) * sqrt(-2.0 * log_uniform(random.word[0]));
}

struct Perturbed {
  Coordinates at;
  void* data;
  int64_t offset;
  Perturbation how;
};

template <bool kContiguous>
__global__ void __launch_bounds__(kThreads)
    perturb_kernel(CoordinateTable<Perturbed> table, uint64_t seed, Stream stream) {
  for_each_coordinate(table, [&](const Perturbed& one, int64_t, int64_t index) {
    const int64_t place = place_of<kContiguous>(one.at.layout, index);
    const double draw = draw_at(one.how.draw, seed, stream, one.offset + index);
    device_dispatch(one.at.dtype, [&](auto tag) {
      using T = decltype(tag);
      T& coordinate = in_global<T>(one.data)[place];
      const double theta = one.how.keep == 0.0 ? 0.0 : as_double(coordinate);  // a sector less to read
      coordinate = from_double<T>(perturbed(one.how, theta, draw));
    });
  });
}

struct Ascended {
  Coordinates at;
  Layout of_grad;
  void* data;
  const void* grad;
};

template <bool kContiguous>
__global__ void __launch_bounds__(kThreads, 4) ascend_kernel(CoordinateTable<Ascended> table, double rate) {
  for_each_coordinate(table, [&](const Ascended& one, int64_t, int64_t index) {
    const int64_t place = place_of<kContiguous>(one.at.layout, index);
    const int64_t place_of_grad = place_of<kContiguous>(one.of_grad, index);
    device_dispatch(one.at.dtype, [&](auto tag) {
      using T = decltype(tag);
      using A = typename Convert<T>::accumulate_t;
      T& coordinate = in_global<T>(one.data)[place];
      const A step = static_cast<A>(rate) * Convert<T>::load(in_global<T>(one.grad)[place_of_grad]);
      coordinate = Convert<T>::store(Convert<T>::load(coordinate) + step);
    });
  });
}

// The sum over the block's threads, in an order that does not depend on timing; in the first warp. All threads must
// take part. `scratch` holds one value per warp, and may be used again after the next barrier.
__device__ inline double block_sum(double value, double* scratch) {
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  value = warp_sum(value);
  if (lane_id() == 0) scratch[warp_in_block()] = value;
  __syncthreads();
  if (warp_in_block() == 0) value = warp_sum(lane_id() < warps ? scratch[lane_id()] : 0.0);
  return value;
}

struct Squared {
  Dense at;
  const void* data;
};

// This thread's share of a tile. Which element goes to which thread, and in which order, does not depend on how they
// are loaded.
template <typename T>
__device__ double sum_of_squares(const T* x, int32_t count) {
  constexpr int lanes = kVectorLanes<T>;
  double sum = 0.0;
  const auto add = [&](T one) {
    const double value = as_double(one);
    sum += value * value;
  };
  const auto add_lanes = [&](const Lanes<T>& vector) {
#pragma unroll
    for (int l = 0; l < lanes; ++l) add(vector.lane[l]);
  };
  const int32_t vectors = count / lanes;
  if (is_vector_aligned(x)) {
    for_each_in_flight<4>(
        vectors, [&](int32_t i) { return reinterpret_cast<const uint4*>(x)[i]; },
        [&](int32_t, const uint4& words) { add_lanes(bits::cast<Lanes<T>>(words)); });
  } else {
    const auto load = [&](int32_t i) {
      Lanes<T> vector;
#pragma unroll
      for (int l = 0; l < lanes; ++l) vector.lane[l] = x[i * lanes + l];
      return vector;
    };
    for_each_in_flight<2>(vectors, load, [&](int32_t, const Lanes<T>& vector) { add_lanes(vector); });
  }
  const int32_t last = vectors * lanes + static_cast<int32_t>(threadIdx.x);
  if (last < count) add(x[last]);
  return sum;
}

__global__ void __launch_bounds__(kThreads, kDenseBlocks)
    sum_of_squares_kernel(DenseTable<Squared> table, double* partial) {
  __shared__ double scratch[kThreads / kWarp];
  for_each_tile(table, [&](const Squared& one, const Tile& tile) {
    double sum = 0.0;
    device_dispatch(one.at.dtype, [&](auto tag) {
      using T = decltype(tag);
      sum = sum_of_squares(in_global<T>(one.data) + tile.begin, tile.count);
    });
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) partial[tile.number] = sum;
    __syncthreads();
  });
}

// A block per tensor: n = 1e8 f32 leave 12,208 partial sums, 12 for each of its threads.
constexpr int kRootThreads = 1024;

__global__ void __launch_bounds__(kRootThreads)
    root_mean_kernel(DenseTable<Squared> table, const double* partial, double* out) {
  __shared__ double scratch[kRootThreads / kWarp];
  for (int32_t t = static_cast<int32_t>(blockIdx.x); t < table.tensors; t += static_cast<int32_t>(gridDim.x)) {
    const Dense at = table.entries[t].at;
    const double* of_tensor = partial + at.first_tile;
    const int64_t tiles = dense_tiles(at);
    double sum = 0.0;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < tiles; i += kRootThreads) sum += of_tensor[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) out[t] = at.numel == 0 ? 0.0 : sqrt(sum / static_cast<double>(at.numel));
    __syncthreads();
  }
}

}  // namespace

void perturb(const Context& context, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
             const std::vector<Perturbation>& how, uint64_t seed, Stream stream) {
  const Range range("fgunlearn::perturb");
  std::vector<Perturbed> entries(segments.size());
  for (size_t t = 0; t < segments.size(); ++t) {
    entries[t].data = segments[t].data;
    entries[t].offset = segments[t].offset;
    entries[t].how = how[t];
  }
  const auto table = coordinate_table(context, entries, segments, indices);
  const auto kernel = all_contiguous(segments) ? perturb_kernel<true> : perturb_kernel<false>;
  launch(context, kernel, coordinate_grid(context, table), kThreads, table, seed, stream);
}

void ascend(const Context& context, const std::vector<Segment>& segments, const std::vector<Segment>& grads,
            const std::vector<IndexList>& indices, double rate) {
  const Range range("fgunlearn::ascend");
  std::vector<Ascended> entries(segments.size());
  for (size_t t = 0; t < segments.size(); ++t) {
    entries[t].of_grad = grads[t].layout;
    entries[t].data = segments[t].data;
    entries[t].grad = grads[t].data;
  }
  const auto table = coordinate_table(context, entries, segments, indices);
  const auto kernel = all_contiguous(segments) && all_contiguous(grads) ? ascend_kernel<true> : ascend_kernel<false>;
  launch(context, kernel, coordinate_grid(context, table), kThreads, table, rate);
}

void rms(const Context& context, const std::vector<Segment>& segments, double* out) {
  const Range range("fgunlearn::rms");
  if (segments.empty()) return;
  std::vector<Squared> entries;
  entries.reserve(segments.size());
  for (const Segment& segment : segments) entries.push_back({{segment.numel, 0, segment.dtype}, segment.data});
  const auto table = dense_table(context, entries);
  auto* partial = context.allocate<double>(table.tiles);
  launch(context, sum_of_squares_kernel, dense_grid(context, table), kThreads, table, partial);
  launch(context, root_mean_kernel, looping_grid(context, table.tensors, 1, 2), kRootThreads, table, partial, out);
}

}  // namespace fgunlearn::cuda
