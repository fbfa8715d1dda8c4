#include "cuda/gather.h"

#include "cuda/coordinates.h"
#include "cuda/nvtx.h"

namespace fgunlearn::cuda {

namespace {

struct Pairs {
  Coordinates at;
  void* data;
  void* values;
};

// kToValues: from the tensor to the values; otherwise the other way. Bits are moved, so the type is only a width.
template <typename Bits, bool kToValues, bool kContiguous>
__device__ void move_bits(const Pairs& pairs, int64_t j, int64_t index) {
  Bits* coordinate = in_global<Bits>(pairs.data) + place_of<kContiguous>(pairs.at.layout, index);
  Bits* value = in_global<Bits>(pairs.values) + j;
  if constexpr (kToValues) {
    *value = *coordinate;
  } else {
    *coordinate = *value;
  }
}

template <bool kToValues, bool kContiguous>
__global__ void __launch_bounds__(kThreads, 4) move_kernel(CoordinateTable<Pairs> table) {
  for_each_coordinate(table, [](const Pairs& one, int64_t j, int64_t index) {
    switch (item_size(one.at.dtype)) {
      case 8:
        return move_bits<uint64_t, kToValues, kContiguous>(one, j, index);
      case 4:
        return move_bits<uint32_t, kToValues, kContiguous>(one, j, index);
      default:
        return move_bits<uint16_t, kToValues, kContiguous>(one, j, index);
    }
  });
}

template <bool kToValues>
void move(const Context& context, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
          const std::vector<Segment>& values) {
  std::vector<Pairs> pairs(segments.size());
  for (size_t t = 0; t < segments.size(); ++t) {
    pairs[t].data = segments[t].data;
    pairs[t].values = values[t].data;
  }
  const auto table = coordinate_table(context, pairs, segments, indices);
  const auto kernel = all_contiguous(segments) ? move_kernel<kToValues, true> : move_kernel<kToValues, false>;
  launch(context, kernel, coordinate_grid(context, table), kThreads, table);
}

}  // namespace

void gather(const Context& context, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
            const std::vector<Segment>& values) {
  const Range range("fgunlearn::gather");
  move<true>(context, segments, indices, values);
}

void scatter(const Context& context, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
             const std::vector<Segment>& values) {
  const Range range("fgunlearn::scatter");
  move<false>(context, segments, indices, values);
}

}  // namespace fgunlearn::cuda
