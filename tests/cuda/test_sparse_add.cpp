#include "cpu/sparse_add.h"
#include "cuda/sparse_add.h"
#include "harness.h"

namespace fgunlearn::test {

namespace {

const DType kDTypes[] = {DType::f32, DType::f64, DType::f16, DType::bf16};

TensorList normal_of(DType dtype, const std::vector<int64_t>& sizes, uint64_t seed) {
  TensorList::Options options;
  options.dtypes = {dtype};
  options.strided = false;
  return TensorList::normal(sizes, seed, options);
}

}  // namespace

TEST(sparse_add_writes_the_bits_that_the_cpu_writes) {
  in_every_order([] {
    for (const DType dtype : kDTypes) {
      for (const DType delta_dtype : {dtype, DType::f32}) {
        for (const double share : {1.0, 0.2}) {
          TensorList expected = normal_of(dtype, {3000, 4097, 1, 2}, 5);  // indices of both widths by turns
          TensorList got = expected.copy();
          const IndexLists indices(expected.segments(), share, 5);
          const TensorList deltas = normal_of(delta_dtype, {3000, 4097, 1, 2}, 6);
          for (size_t t = 0; t < 4; ++t) {
            Segment delta = deltas.segments()[t];
            delta.numel = indices.lists()[t].count;
            cpu::sparse_add(one_thread(), expected.segments()[t], indices.lists()[t], delta);
            Device device(1 + static_cast<int>(t));
            cuda::sparse_add(device.context(), got.segments()[t], indices.lists()[t], delta);
          }
          CHECK(got.same_bits(expected), ", theta ", static_cast<int>(dtype), ", delta ",
                static_cast<int>(delta_dtype));
        }
      }
    }
  });
}

TEST(sparse_add_takes_one_launch_and_none_without_indices) {
  TensorList theta = normal_of(DType::f32, {5000}, 1);
  const TensorList before = theta.copy();
  const TensorList delta = normal_of(DType::f32, {5000}, 2);
  const IndexLists all(theta.segments(), 1.0, 1);
  Device device;
  shim::take_launches();
  cuda::sparse_add(device.context(), theta.segments()[0], IndexList{nullptr, 0, false}, delta.segments()[0]);
  CHECK(shim::take_launches() == 0 && theta.same_bits(before));
  cuda::sparse_add(device.context(), theta.segments()[0], all.lists()[0], delta.segments()[0]);
  CHECK(shim::take_launches() == 1);
}

TEST(sparse_add_stops_at_an_index_out_of_range) {
  for (const int64_t beyond : {int64_t{2}, int64_t{-1}, int64_t{1} << 40}) {
    TensorList theta;
    theta.add(DType::bf16, {1.0, 2.0});
    TensorList delta;
    delta.add(DType::f32, {1.0});
    Device device;
    bool stopped = false;
    try {
      cuda::sparse_add(device.context(), theta.segments()[0], IndexList{&beyond, 1, true}, delta.segments()[0]);
    } catch (const std::runtime_error&) {
      stopped = true;
    }
    CHECK(stopped, ", index ", beyond);
  }
}

}  // namespace fgunlearn::test
