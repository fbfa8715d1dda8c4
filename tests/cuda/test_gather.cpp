#include "cpu/gather.h"
#include "cuda/gather.h"
#include "harness.h"

namespace fgunlearn::test {

const std::vector<int64_t> kSizes = {1, 0, 3000, 64, 7, 0, 5002, 2, 1024, 0};

TEST(gather_moves_the_bits_that_the_cpu_moves) {
  in_every_order([] {
    for (uint64_t seed = 0; seed < 6; ++seed) {
      const TensorList tensors = TensorList::normal(kSizes, seed);
      const IndexLists indices(tensors.segments(), seed == 0 ? 1.0 : 0.3, seed);
      TensorList expected = tensors.like(seed);
      for (size_t t = 0; t < kSizes.size(); ++t) expected.segments()[t].numel = indices.lists()[t].count;
      TensorList got = expected.copy();
      cpu::gather(one_thread(), tensors.segments(), indices.lists(), expected.segments());
      Device device;
      cuda::gather(device.context(), tensors.segments(), indices.lists(), got.segments());
      CHECK(got.same_bits(expected), ", seed ", seed);
    }
  });
}

TEST(scatter_writes_the_selected_coordinates_and_nothing_else) {
  in_every_order([] {
    for (uint64_t seed = 0; seed < 6; ++seed) {
      TensorList expected = TensorList::normal(kSizes, seed);
      TensorList got = expected.copy();
      const IndexLists indices(expected.segments(), 0.3, seed);
      const TensorList values = expected.like(seed + 100);
      cpu::scatter(one_thread(), expected.segments(), indices.lists(), values.segments());
      Device device;
      cuda::scatter(device.context(), got.segments(), indices.lists(), values.segments());
      CHECK(got.same_bits(expected), ", seed ", seed);
    }
  });
}

TEST(hundreds_of_tensors_take_a_constant_number_of_launches) {
  const std::vector<int64_t> sizes(400, 40);
  const TensorList tensors = TensorList::normal(sizes, 1);
  const IndexLists indices(tensors.segments(), 0.5, 1);
  TensorList values = tensors.like(2);
  Device device;
  shim::take_launches();
  cuda::gather(device.context(), tensors.segments(), indices.lists(), values.segments());
  const int64_t launches = shim::take_launches();
  CHECK(launches <= 5, ", took ", launches);  // the table in parcels of 32,000 bytes, then one kernel
}

TEST(an_index_out_of_range_stops_the_kernel) {
  TensorList tensors;
  tensors.add(DType::f32, {1.0, 2.0});
  TensorList values;
  values.add(DType::f32, {0.0});
  const int32_t beyond = 2;
  Device device;
  bool stopped = false;
  try {
    cuda::gather(device.context(), tensors.segments(), {IndexList{&beyond, 1, false}}, values.segments());
  } catch (const std::runtime_error&) {
    stopped = true;
  }
  CHECK(stopped);
}

}  // namespace fgunlearn::test
