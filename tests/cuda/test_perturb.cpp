#include <cmath>
#include <limits>

#include "cpu/perturb.h"
#include "cuda/perturb.h"
#include "harness.h"

namespace fgunlearn::test {

namespace {

const std::vector<int64_t> kSizes = {1, 0, 3000, 64, 7, 0, 5002, 2, 1024, 0};
const double kNan = std::numeric_limits<double>::quiet_NaN();

// Every kind of draw with every kind of `keep`, tensor after tensor, from a place in that sequence on.
std::vector<Perturbation> mixed_perturbations(size_t count, uint64_t first) {
  const Draw draws[] = {Draw::none, Draw::normal, Draw::uniform};
  const double keeps[] = {1.0, 0.0, 0.75};
  std::vector<Perturbation> how(count);
  for (size_t t = 0; t < count; ++t) {
    const size_t turn = t + static_cast<size_t>(first);
    how[t] = {draws[turn % 3], keeps[turn / 3 % 3], turn % 2 == 0 ? 0.0 : -0.3, 0.1 * static_cast<double>(turn % 4)};
  }
  return how;
}

std::vector<double> cpu_rms(const TensorList& tensors) {
  std::vector<double> out(tensors.segments().size());
  cpu::rms(one_thread(), tensors.segments(), out.data());
  return out;
}

std::vector<double> cuda_rms(const TensorList& tensors, int multiprocessors) {
  Device device(multiprocessors);
  const int64_t count = static_cast<int64_t>(tensors.segments().size());
  double* out = device.allocate<double>(count);
  cuda::rms(device.context(), tensors.segments(), out);
  return std::vector<double>(out, out + count);
}

TensorList::Options contiguous() {
  TensorList::Options options;
  options.strided = false;
  return options;
}

}  // namespace

TEST(perturb_writes_the_bits_that_the_cpu_writes) {
  in_every_order([] {
    for (uint64_t seed = 0; seed < 9; ++seed) {
      TensorList expected = TensorList::normal(kSizes, seed);
      TensorList got = expected.copy();
      const IndexLists indices(expected.segments(), seed == 0 ? 1.0 : 0.3, seed);
      const auto how = mixed_perturbations(kSizes.size(), seed);
      cpu::perturb(one_thread(), expected.segments(), indices.lists(), how, seed, Stream::gaussian);
      Device device(1 + static_cast<int>(seed));
      cuda::perturb(device.context(), got.segments(), indices.lists(), how, seed, Stream::gaussian);
      CHECK(got.same_bits(expected), ", seed ", seed);
    }
  });
}

TEST(perturb_of_contiguous_tensors_alone_writes_the_same_bits) {
  for (uint64_t seed = 0; seed < 9; ++seed) {
    TensorList expected = TensorList::normal(kSizes, seed, contiguous());
    TensorList got = expected.copy();
    const IndexLists indices(expected.segments(), 0.5, seed);
    const auto how = mixed_perturbations(kSizes.size(), seed);
    cpu::perturb(one_thread(), expected.segments(), indices.lists(), how, 40 + seed, Stream::reset);
    Device device;
    cuda::perturb(device.context(), got.segments(), indices.lists(), how, 40 + seed, Stream::reset);
    CHECK(got.same_bits(expected), ", seed ", seed);
  }
}

TEST(a_redraw_replaces_nan_and_infinity) {
  for (const Draw draw : {Draw::none, Draw::normal, Draw::uniform}) {
    for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
      TensorList expected;
      expected.add(dtype, {kNan, std::numeric_limits<double>::infinity(), -1.0, kNan});
      TensorList got = expected.copy();
      const IndexLists all(expected.segments(), 1.0, 0);
      const std::vector<Perturbation> how = {{draw, 0.0, 0.25, 0.5}};
      cpu::perturb(one_thread(), expected.segments(), all.lists(), how, 3, Stream::reset);
      Device device;
      cuda::perturb(device.context(), got.segments(), all.lists(), how, 3, Stream::reset);
      CHECK(got.same_bits(expected));
      for (int64_t i = 0; i < 4; ++i) CHECK(std::isfinite(got.get(0, i)), ", element ", i);
    }
  }
}

TEST(noise_is_keyed_by_the_global_index_and_counts_past_32_bits) {
  TensorList whole;
  whole.add(DType::f64, std::vector<double>(600, 1.0));
  whole.segments()[0].offset = (int64_t{1} << 32) - 200;
  TensorList expected = whole.copy();
  TensorList halves;
  halves.add(DType::f64, std::vector<double>(250, 1.0));
  halves.add(DType::f64, std::vector<double>(350, 1.0));
  halves.segments()[0].offset = whole.segments()[0].offset;
  halves.segments()[1].offset = whole.segments()[0].offset + 250;
  const Perturbation noise = {Draw::normal, 1.0, 0.0, 0.1};
  const IndexLists of_whole(whole.segments(), 1.0, 0);
  const IndexLists of_halves(halves.segments(), 1.0, 0);
  cpu::perturb(one_thread(), expected.segments(), of_whole.lists(), {noise}, 5, Stream::gaussian);
  Device device;
  cuda::perturb(device.context(), whole.segments(), of_whole.lists(), {noise}, 5, Stream::gaussian);
  cuda::perturb(device.context(), halves.segments(), of_halves.lists(), {noise, noise}, 5, Stream::gaussian);
  CHECK(whole.same_bits(expected));
  for (int64_t i = 0; i < 600; ++i) {
    CHECK(whole.get(0, i) == (i < 250 ? halves.get(0, i) : halves.get(1, i - 250)), ", element ", i);
  }
}

TEST(ascend_writes_the_bits_that_the_cpu_writes) {
  in_every_order([] {
    for (uint64_t seed = 0; seed < 6; ++seed) {
      const bool strided = seed % 2 == 0;
      TensorList expected = strided ? TensorList::normal(kSizes, seed) : TensorList::normal(kSizes, seed, contiguous());
      TensorList got = expected.copy();
      const TensorList grads = seed % 3 == 0 ? expected.copy() : expected.like(seed + 50);
      const IndexLists indices(expected.segments(), 0.3, seed);
      cpu::ascend(one_thread(), expected.segments(), grads.segments(), indices.lists(), 0.37);
      Device device(1 + static_cast<int>(seed));
      cuda::ascend(device.context(), got.segments(), grads.segments(), indices.lists(), 0.37);
      CHECK(got.same_bits(expected), ", seed ", seed);
    }
  });
}

TEST(ascend_reads_strided_gradients_of_contiguous_tensors) {
  TensorList tensors = TensorList::normal(kSizes, 11);
  const TensorList grads = tensors.copy();
  TensorList expected = tensors.like(12);
  TensorList got = expected.copy();
  const IndexLists indices(tensors.segments(), 0.3, 11);
  cpu::ascend(one_thread(), expected.segments(), grads.segments(), indices.lists(), -2.0);
  Device device;
  cuda::ascend(device.context(), got.segments(), grads.segments(), indices.lists(), -2.0);
  CHECK(got.same_bits(expected));
}

TEST(perturbing_hundreds_of_tensors_takes_a_constant_number_of_launches) {
  const std::vector<int64_t> sizes(400, 40);
  TensorList tensors = TensorList::normal(sizes, 1);
  const TensorList grads = tensors.like(2);
  const IndexLists indices(tensors.segments(), 0.5, 1);
  Device device;
  // The table in parcels of 32,000 bytes, then one kernel; two for rms.
  shim::take_launches();
  cuda::perturb(device.context(), tensors.segments(), indices.lists(), mixed_perturbations(400, 0), 1,
                Stream::gaussian);
  const int64_t of_perturb = shim::take_launches();
  CHECK(of_perturb <= 5, ", took ", of_perturb);
  cuda::ascend(device.context(), tensors.segments(), grads.segments(), indices.lists(), 0.1);
  const int64_t of_ascend = shim::take_launches();
  CHECK(of_ascend <= 6, ", took ", of_ascend);
  cuda::rms(device.context(), grads.segments(), device.allocate<double>(400));
  const int64_t of_rms = shim::take_launches();
  CHECK(of_rms <= 3, ", took ", of_rms);
}

TEST(perturbing_nothing_launches_no_kernel_over_coordinates) {
  TensorList tensors = TensorList::normal({5, 6}, 1);
  const TensorList before = tensors.copy();
  const IndexLists none(tensors.segments(), 0.0, 1);
  Device device;
  cuda::perturb(device.context(), tensors.segments(), none.lists(), mixed_perturbations(2, 0), 1, Stream::gaussian);
  cuda::perturb(device.context(), {}, {}, {}, 1, Stream::gaussian);
  cuda::ascend(device.context(), {}, {}, {}, 1.0);
  cuda::rms(device.context(), {}, nullptr);
  CHECK(tensors.same_bits(before));
}

TEST(perturb_stops_at_an_index_out_of_range) {
  for (const int32_t beyond : {2, -1}) {
    TensorList tensors;
    tensors.add(DType::f32, {1.0, 2.0});
    Device device;
    bool stopped = false;
    try {
      cuda::perturb(device.context(), tensors.segments(), {IndexList{&beyond, 1, false}}, mixed_perturbations(1, 1), 0,
                    Stream::gaussian);
    } catch (const std::runtime_error&) {
      stopped = true;
    }
    CHECK(stopped, ", index ", beyond);
  }
}

TEST(rms_agrees_with_the_cpu) {
  for (uint64_t seed = 0; seed < 4; ++seed) {
    const TensorList tensors =
        TensorList::normal({20001, 1, 0, 16385, 4096, 8192, 16384, 33, 0, 70000}, seed, contiguous());
    const auto expected = cpu_rms(tensors);
    const auto got = cuda_rms(tensors, 2);
    for (size_t t = 0; t < expected.size(); ++t) {
      CHECK(std::abs(got[t] - expected[t]) <= 1e-12 * expected[t], ", seed ", seed, ", tensor ", t, ": ", got[t],
            " and ", expected[t]);
    }
  }
}

TEST(rms_of_nothing_is_zero_and_of_a_nan_is_nan) {
  TensorList tensors;
  tensors.add(DType::f32, {});
  tensors.add(DType::f16, {1.0, kNan});
  tensors.add(DType::bf16, {-2.0});
  tensors.add(DType::f64, {});
  const auto got = cuda_rms(tensors, 1);
  CHECK(got[0] == 0.0 && std::isnan(got[1]) && got[2] == 2.0 && got[3] == 0.0);
}

TEST(the_bits_of_rms_depend_on_the_values_alone) {
  const TensorList tensors = TensorList::normal({40001, 5, 20000, 9000}, 3, contiguous());
  // The same values from another place in memory.
  TensorList moved;
  for (const Segment& segment : tensors.segments()) {
    const int64_t t = static_cast<int64_t>(moved.segments().size());
    std::vector<double> values;
    for (int64_t i = 0; i < segment.numel; ++i) values.push_back(tensors.get(t, i));
    const bool aligned = reinterpret_cast<uintptr_t>(segment.data) % 16 == 0;
    moved.add(segment.dtype, values, aligned ? 1 : 0);
  }
  const auto expected = cuda_rms(tensors, 1);
  in_every_order([&] {
    for (const int multiprocessors : {1, 2, 5, 64}) {
      CHECK(cuda_rms(tensors, multiprocessors) == expected, ", ", multiprocessors, " multiprocessors");
      CHECK(cuda_rms(moved, multiprocessors) == expected, ", moved, ", multiprocessors, " multiprocessors");
    }
  });
}

TEST(a_thread_may_have_several_partial_sums_of_rms) {
  // More tiles than the last kernel's block has threads, of f64: 4096 elements each.
  TensorList tensors;
  tensors.add(DType::f64, std::vector<double>(1100 * 4096 + 1, 0.5));
  const auto got = cuda_rms(tensors, 1);
  CHECK(got[0] == 0.5, ", got ", got[0]);
}

}  // namespace fgunlearn::test
