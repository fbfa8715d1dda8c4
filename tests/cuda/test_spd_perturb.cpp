#include <cmath>
#include <limits>

#include "cpu/spd_perturb.h"
#include "cuda/spd_perturb.h"
#include "harness.h"

namespace fgunlearn::test {

namespace {

const DType kDTypes[] = {DType::f32, DType::f64, DType::f16, DType::bf16};
const double kNan = std::numeric_limits<double>::quiet_NaN();
const double kInfinity = std::numeric_limits<double>::infinity();

DType type_of_norms(DType dtype) { return dtype == DType::f64 ? DType::f64 : DType::f32; }

// One batch: x, g, the gradient of the result, and eps for each sample, each misaligned by so many elements.
struct Inputs {
  TensorList tensors;
  int64_t samples;
  int64_t size;
  double radius;
  bool each;

  // No x + delta is near a limit, where a last bit decides on a gradient. Every fourth sample is inside a small ball.
  Inputs(DType dtype, int64_t samples, int64_t size, double radius, bool each, uint64_t seed, int64_t misaligned = 0)
      : samples(samples), size(size), radius(radius), each(each) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    std::vector<double> x, g, grad, eps;
    for (int64_t i = 0; i < samples * size; ++i) {
      const double middle[] = {-2.0, 0.5, 2.0};
      x.push_back(middle[random() % 3] + 0.2 * (uniform(random) - 0.5));
      g.push_back(2.0 * normal(random) * (i / size % 4 == 3 ? 1e-3 : 1.0));
      grad.push_back(normal(random));
    }
    for (int64_t b = 0; b < samples; ++b) eps.push_back(0.05 + 0.2 * uniform(random));
    tensors.add(dtype, x, misaligned);
    tensors.add(dtype, g, misaligned);
    tensors.add(dtype, grad, misaligned);
    tensors.add(DType::f32, eps);
  }

  DType dtype() const { return tensors.segments()[0].dtype; }
  const void* data(size_t t) const { return tensors.segments()[t].data; }
  SpdBatch batch() const { return {dtype(), samples, size, data(0), data(1)}; }
  SpdRule rule(Ball ball) const { return {ball, 0.2, each ? data(3) : nullptr, DType::f32, radius, 0.0, 1.0}; }
};

// out, norms, dx, dg.
TensorList room_for(const Inputs& in, Ball ball, int64_t misaligned = 0) {
  TensorList room;
  const std::vector<double> whole(static_cast<size_t>(in.samples * in.size), 7.0);
  room.add(in.dtype(), whole, misaligned);
  room.add(type_of_norms(in.dtype()),
           std::vector<double>(ball == Ball::none ? 0 : static_cast<size_t>(in.samples), 7.0));
  room.add(in.dtype(), whole, misaligned);
  room.add(in.dtype(), whole, misaligned);
  return room;
}

struct Wanted {
  bool dx = true;
  bool dg = true;
};

void on_cpu(const Inputs& in, Ball ball, TensorList& to, Wanted wanted = {}) {
  const auto& room = to.segments();
  cpu::spd_perturb(one_thread(), in.batch(), in.rule(ball), room[0].data, room[1].data);
  cpu::spd_perturb_backward(one_thread(), in.batch(), in.rule(ball), in.data(2), room[1].data,
                            wanted.dx ? room[2].data : nullptr, wanted.dg ? room[3].data : nullptr);
}

// The norms that the way back takes are the CPU's, so that it is held to the CPU's by itself.
void on_cuda(const Inputs& in, Ball ball, TensorList& to, const TensorList& of_cpu, int multiprocessors,
             Wanted wanted = {}) {
  Device device(multiprocessors);
  const auto& room = to.segments();
  cuda::spd_perturb(device.context(), in.batch(), in.rule(ball), room[0].data, room[1].data);
  cuda::spd_perturb_backward(device.context(), in.batch(), in.rule(ball), in.data(2), of_cpu.segments()[1].data,
                             wanted.dx ? room[2].data : nullptr, wanted.dg ? room[3].data : nullptr);
}

double rounding(DType dtype) {
  return dtype == DType::f64 ? 0x1p-50 : dtype == DType::f32 ? 0x1p-21 : dtype == DType::f16 ? 0x1p-9 : 0x1p-6;
}

void check_close(const TensorList& got, const TensorList& wanted, const char* what) {
  for (size_t t = 0; t < wanted.segments().size(); ++t) {
    const Segment& segment = wanted.segments()[t];
    for (int64_t i = 0; i < segment.numel; ++i) {
      const double a = got.get(static_cast<int64_t>(t), i);
      const double b = wanted.get(static_cast<int64_t>(t), i);
      if (a == b || (std::isnan(a) && std::isnan(b))) continue;
      CHECK(std::abs(a - b) <= rounding(segment.dtype) * (1.0 + std::abs(b)), ", ", what, ", tensor ", t, ", element ",
            i, ": ", a, " for ", b);
    }
  }
}

void check_against_cpu(const Inputs& in, Ball ball, int multiprocessors, int64_t misaligned = 0, Wanted wanted = {}) {
  TensorList expected = room_for(in, ball, misaligned);
  TensorList got = room_for(in, ball, misaligned);
  on_cpu(in, ball, expected, wanted);
  on_cuda(in, ball, got, expected, multiprocessors, wanted);
  if (ball == Ball::none) {
    CHECK(got.same_bits(expected), ", dtype ", static_cast<int>(in.dtype()), ", ", in.samples, " x ", in.size);
  } else {
    check_close(got, expected, ball == Ball::l2 ? "l2" : "linf");
  }
}

struct Shape {
  int64_t samples;
  int64_t size;
};
// In a warp's registers, in a block's, and in tiles; whole vectors or not; more samples than blocks.
const Shape kShapes[] = {{40, 64}, {1, 1}, {9, 513}, {3, 1023}, {2, 4096}, {3, 4100}, {5, 9001}, {1, 40000}};

}  // namespace

TEST(spd_perturb_without_a_ball_has_the_bits_of_the_cpu) {
  in_every_order([] {
    for (const DType dtype : kDTypes) {
      for (const Shape& shape : kShapes) {
        for (const bool each : {false, true}) {
          check_against_cpu(Inputs(dtype, shape.samples, shape.size, 1.0, each, 1), Ball::none, 2);
        }
      }
    }
  });
}

TEST(spd_perturb_in_a_ball_is_the_cpus_to_the_rounding_of_a_sum) {
  in_every_order([] {
    for (const DType dtype : kDTypes) {
      for (const Shape& shape : kShapes) {
        for (const Ball ball : {Ball::l2, Ball::linf}) {
          for (const double radius : {0.15, 1.0, 1e4}) {
            check_against_cpu(Inputs(dtype, shape.samples, shape.size, radius, shape.size % 2 == 0, 2), ball, 1);
          }
        }
      }
    }
  });
}

TEST(spd_perturb_sums_more_tiles_of_a_sample_than_a_block_has_threads) {
  for (const Ball ball : {Ball::l2, Ball::linf}) {
    check_against_cpu(Inputs(DType::f64, 2, 300'001, 1.0, true, 11), ball, 2);
  }
}

TEST(spd_perturb_of_linf_has_the_norms_of_the_cpu_to_the_bit) {
  for (const DType dtype : kDTypes) {
    for (const Shape& shape : kShapes) {
      const Inputs in(dtype, shape.samples, shape.size, 0.1, true, 3);
      TensorList expected = room_for(in, Ball::linf);
      TensorList got = room_for(in, Ball::linf);
      const Wanted neither{false, false};
      on_cpu(in, Ball::linf, expected, neither);
      on_cuda(in, Ball::linf, got, expected, 2, neither);
      CHECK(got.same_bits(expected), ", dtype ", static_cast<int>(dtype), ", ", shape.samples, " x ", shape.size);
    }
  }
}

TEST(spd_perturb_takes_batches_that_begin_anywhere_and_sums_them_alike) {
  for (const DType dtype : kDTypes) {
    for (const Shape& shape : {Shape{7, 64}, Shape{3, 1024}, Shape{2, 9000}}) {
      for (const Ball ball : {Ball::none, Ball::l2, Ball::linf}) {
        TensorList answers[3];
        for (int64_t misaligned = 0; misaligned < 3; ++misaligned) {
          const Inputs in(dtype, shape.samples, shape.size, 0.3, false, 4, misaligned);
          check_against_cpu(in, ball, 1, misaligned);
          answers[misaligned] = room_for(in, ball, 0);
          on_cuda(in, ball, answers[misaligned], answers[misaligned], 1);
        }
        CHECK(answers[1].same_bits(answers[0]) && answers[2].same_bits(answers[0]), ", dtype ", static_cast<int>(dtype),
              ", size ", shape.size);
      }
    }
  }
}

TEST(spd_perturb_does_not_depend_on_the_number_of_multiprocessors) {
  for (const Shape& shape : {Shape{50, 100}, Shape{9, 2000}, Shape{4, 20000}}) {
    for (const Ball ball : {Ball::l2, Ball::linf}) {
      const Inputs in(DType::f32, shape.samples, shape.size, 0.3, false, 5);
      TensorList few = room_for(in, ball);
      TensorList many = room_for(in, ball);
      on_cuda(in, ball, few, few, 1);
      on_cuda(in, ball, many, many, 7);
      CHECK(many.same_bits(few), ", size ", shape.size);
    }
  }
}

TEST(spd_perturb_writes_only_the_gradients_asked_for) {
  for (const Shape& shape : {Shape{7, 64}, Shape{3, 1024}, Shape{2, 9000}}) {
    for (const Ball ball : {Ball::none, Ball::l2, Ball::linf}) {
      const Inputs in(DType::f32, shape.samples, shape.size, 0.3, false, 6);
      for (const Wanted wanted : {Wanted{true, false}, Wanted{false, true}, Wanted{false, false}}) {
        check_against_cpu(in, ball, 2, 0, wanted);
      }
    }
  }
}

TEST(spd_perturb_takes_zeros_infinities_and_nan_as_the_cpu_does) {
  for (const DType dtype : kDTypes) {
    for (const int64_t size : {int64_t{20}, int64_t{600}, int64_t{5000}, int64_t{70'000}}) {  // three parts on the CPU
      Inputs in(dtype, 4, size, 0.3, false, 7);
      const double odd[] = {0.0, -0.0, kInfinity, -kInfinity, kNan, -kNan, 1e-40, -6e-8};
      for (int64_t i = 0; i < 8; ++i) {
        in.tensors.set(1, i, odd[i]);             // g, in the first sample
        in.tensors.set(0, size + i, odd[i]);      // x, in the second
        in.tensors.set(2, 2 * size + i, odd[i]);  // the gradient, in the third
      }
      for (int64_t i = 0; i < size; ++i) in.tensors.set(1, 3 * size + i, 0.0);  // a norm of 0, in the last
      check_against_cpu(in, Ball::none, 1);
      check_against_cpu(in, Ball::linf, 1);
      check_against_cpu(in, Ball::l2, 1);
    }
  }
}

TEST(spd_perturb_shares_ties_as_the_cpu_does) {
  for (const int64_t size : {int64_t{20}, int64_t{600}, int64_t{5000}}) {
    Inputs in(DType::f32, 3, size, 0.05, false, 8);
    for (int64_t i = 0; i < 3 * size; i += 3) in.tensors.set(1, i, i % 2 == 0 ? 9.5 : -9.5);  // saturated
    check_against_cpu(in, Ball::linf, 1);
  }
}

TEST(spd_perturb_of_nothing_is_nothing_and_norms_of_empty_samples_are_0) {
  Device device;
  shim::take_launches();
  for (const Shape& shape : {Shape{0, 5}, Shape{3, 0}}) {
    const Inputs in(DType::f64, shape.samples, shape.size, 1.0, false, 9);
    for (const Ball ball : {Ball::none, Ball::l2}) {
      TensorList room = room_for(in, ball);
      on_cuda(in, ball, room, room, 1);
      for (int64_t b = 0; b < room.segments()[1].numel; ++b) CHECK(room.get(1, b) == 0.0);
    }
  }
  CHECK(shim::take_launches() == 0);
}

TEST(spd_perturb_takes_one_launch) {
  for (const Shape& shape : kShapes) {
    for (const Ball ball : {Ball::none, Ball::l2}) {
      const Inputs in(DType::bf16, shape.samples, shape.size, 0.3, true, 10);
      TensorList room = room_for(in, ball);
      shim::take_launches();
      on_cuda(in, ball, room, room, 1);
      const int64_t launches = shim::take_launches();
      CHECK(launches == 2, ", took ", launches, " forward and back");
    }
  }
}

}  // namespace fgunlearn::test
