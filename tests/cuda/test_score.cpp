#include <limits>

#include "cpu/score.h"
#include "cuda/score.h"
#include "harness.h"

namespace fgunlearn::test {

namespace {

const std::vector<int64_t> kSizes = {20001, 0, 3, 8192, 1, 16384, 0, 4097, 12290};
const ScoreKind kKinds[] = {ScoreKind::grad, ScoreKind::abs_grad, ScoreKind::fisher};
const double kNan = std::numeric_limits<double>::quiet_NaN();
const double kInfinity = std::numeric_limits<double>::infinity();

TensorList contiguous(const std::vector<int64_t>& sizes, uint64_t seed) {
  TensorList::Options options;
  options.strided = false;
  return TensorList::normal(sizes, seed, options);
}

// f64 where the gradient is, else f32, beginning 0 to 3 elements past a multiple of 16 bytes.
TensorList scores_for(const TensorList& grads, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  TensorList scores;
  for (const Segment& grad : grads.segments()) {
    std::vector<double> values(static_cast<size_t>(grad.numel));
    for (double& value : values) value = normal(random);
    scores.add(grad.dtype == DType::f64 ? DType::f64 : DType::f32, values, static_cast<int64_t>(random() % 4));
  }
  return scores;
}

void check_accumulation(const TensorList& scores, const TensorList& grads, ScoreKind kind, int multiprocessors) {
  TensorList expected = scores.copy();
  TensorList got = scores.copy();
  cpu::accumulate_scores(one_thread(), expected.segments(), grads.segments(), kind, 0.3);
  Device device(multiprocessors);
  cuda::accumulate_scores(device.context(), got.segments(), grads.segments(), kind, 0.3);
  CHECK(got.same_bits(expected), ", kind ", static_cast<int>(kind), ", ", multiprocessors, " multiprocessors");
}

using Count = void (*)(const cuda::Context&, const std::vector<Segment>&, int64_t*);

std::vector<int64_t> counted(Count count, const TensorList& tensors, int multiprocessors) {
  Device device(multiprocessors);
  const int64_t tensor_count = static_cast<int64_t>(tensors.segments().size());
  int64_t* counts = device.allocate<int64_t>(tensor_count);
  count(device.context(), tensors.segments(), counts);
  return std::vector<int64_t>(counts, counts + tensor_count);
}

}  // namespace

TEST(scores_accumulate_to_the_bits_of_the_cpu) {
  in_every_order([] {
    for (uint64_t seed = 0; seed < 3; ++seed) {
      const TensorList grads = contiguous(kSizes, seed);
      const TensorList scores = scores_for(grads, seed + 20);
      for (const ScoreKind kind : kKinds) check_accumulation(scores, grads, kind, 1 + static_cast<int>(seed));
    }
  });
}

TEST(scores_accumulate_wherever_score_and_gradient_begin) {
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    TensorList grads;
    TensorList scores;
    for (int64_t of_grad = 0; of_grad < 8; ++of_grad) {
      for (int64_t of_score = 0; of_score < 4; ++of_score) {
        for (const size_t numel : {size_t{1}, size_t{3}, size_t{70}, size_t{2100}}) {
          std::vector<double> values(numel);
          for (size_t i = 0; i < numel; ++i) values[i] = (i % 2 == 0 ? 0.001 : -0.001) * static_cast<double>(i + 1);
          grads.add(dtype, values, of_grad);
          scores.add(dtype == DType::f64 ? DType::f64 : DType::f32, std::vector<double>(numel, 0.1), of_score);
        }
      }
    }
    for (const ScoreKind kind : kKinds) check_accumulation(scores, grads, kind, 2);
  }
}

TEST(scores_take_zeros_subnormals_infinities_and_nan_as_the_cpu_does) {
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    const std::vector<double> odd = {0.0,   -0.0,   kInfinity, -kInfinity, kNan, -kNan, 6e-8, -6e-8,
                                     1e-40, -1e-40, 65504.0,   -65520.0,   1e38, -1e38, 1e-3, 2.0};
    TensorList grads;
    TensorList scores;
    for (const double score : {0.0, -0.0, 1.0, kInfinity}) {
      grads.add(dtype, odd);
      scores.add(dtype == DType::f64 ? DType::f64 : DType::f32, std::vector<double>(odd.size(), score));
    }
    for (const ScoreKind kind : kKinds) check_accumulation(scores, grads, kind, 1);
  }
}

TEST(a_product_is_rounded_before_it_is_added) {
  // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24, whose last bit a fused multiply-add would keep: it cancels all but that.
  TensorList grads;
  grads.add(DType::f32, std::vector<double>(8, 1.0 + 0x1p-12));
  TensorList scores;
  scores.add(DType::f32, std::vector<double>(8, -(1.0 + 0x1p-11)));
  Device device;
  cuda::accumulate_scores(device.context(), scores.segments(), grads.segments(), ScoreKind::fisher, 1.0);
  for (int64_t i = 0; i < 8; ++i) CHECK(scores.get(0, i) == 0.0, ", element ", i);
}

TEST(scores_of_hundreds_of_tensors_take_a_constant_number_of_launches) {
  const TensorList grads = contiguous(std::vector<int64_t>(400, 40), 1);
  TensorList scores = scores_for(grads, 2);
  Device device;
  shim::take_launches();
  cuda::accumulate_scores(device.context(), scores.segments(), grads.segments(), ScoreKind::fisher, 1.0);
  const int64_t of_scores = shim::take_launches();
  CHECK(of_scores <= 3, ", took ", of_scores);  // the table in parcels of 32,000 bytes, then one kernel
  cuda::count_nonfinite(device.context(), grads.segments(), device.allocate<int64_t>(400));
  const int64_t of_count = shim::take_launches();
  CHECK(of_count <= 2, ", took ", of_count);
}

TEST(scores_of_empty_lists_and_tensors_are_left_alone) {
  Device device;
  cuda::accumulate_scores(device.context(), {}, {}, ScoreKind::grad, 1.0);
  cuda::count_nonfinite(device.context(), {}, nullptr);
  cuda::count_nan(device.context(), {}, nullptr);
  const TensorList empty = contiguous({0, 0}, 1);
  cuda::accumulate_scores(device.context(), scores_for(empty, 1).segments(), empty.segments(), ScoreKind::grad, 1.0);
  CHECK(counted(cuda::count_nonfinite, empty, 1) == std::vector<int64_t>(2, 0));
}

TEST(values_that_are_not_finite_are_counted_as_on_the_cpu) {
  in_every_order([] {
    for (uint64_t seed = 0; seed < 4; ++seed) {
      TensorList tensors = contiguous(kSizes, seed);
      std::mt19937_64 random(seed);
      for (size_t t = 0; t < kSizes.size(); ++t) {
        if (kSizes[t] == 0 || random() % 4 == 0) continue;
        for (int i = 0; i < 50; ++i) {
          const int64_t where = static_cast<int64_t>(random() % static_cast<uint64_t>(kSizes[t]));
          const double odd[] = {kNan, kInfinity, -kInfinity, -kNan, 65504.0, -3e38};
          tensors.set(static_cast<int64_t>(t), where, odd[random() % 6]);
        }
      }
      std::vector<int64_t> expected(kSizes.size());
      cpu::count_nonfinite(one_thread(), tensors.segments(), expected.data());
      std::vector<int64_t> nan(kSizes.size());
      for (size_t t = 0; t < kSizes.size(); ++t) {
        for (int64_t i = 0; i < kSizes[t]; ++i)
          nan[t] += tensors.get(static_cast<int64_t>(t), i) != tensors.get(static_cast<int64_t>(t), i);
      }
      for (const int multiprocessors : {1, 3}) {
        CHECK(counted(cuda::count_nonfinite, tensors, multiprocessors) == expected, ", seed ", seed);
        CHECK(counted(cuda::count_nan, tensors, multiprocessors) == nan, ", seed ", seed);
      }
    }
  });
}

TEST(every_pattern_of_16_bits_is_counted_for_what_it_is) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    TensorList tensors;
    tensors.add(dtype, std::vector<double>(65536, 0.0));
    auto* bits = static_cast<uint16_t*>(tensors.segments()[0].data);
    for (int pattern = 0; pattern < 65536; ++pattern) bits[pattern] = static_cast<uint16_t>(pattern);
    const int64_t mantissas = dtype == DType::f16 ? 1024 : 128;
    CHECK(counted(cuda::count_nonfinite, tensors, 1)[0] == 2 * mantissas);
    CHECK(counted(cuda::count_nan, tensors, 1)[0] == 2 * (mantissas - 1));
  }
}

TEST(a_tensor_of_nan_only_is_counted_in_full) {
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    TensorList tensors;
    tensors.add(dtype, std::vector<double>(50001, kNan));
    tensors.add(dtype, std::vector<double>(50001, kNan), 1);
    CHECK(counted(cuda::count_nan, tensors, 2) == std::vector<int64_t>(2, 50001));
    CHECK(counted(cuda::count_nonfinite, tensors, 2) == std::vector<int64_t>(2, 50001));
  }
}

}  // namespace fgunlearn::test
