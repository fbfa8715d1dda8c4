#include <cmath>

#include "cpu/update.h"
#include "cuda/update.h"
#include "harness.h"

namespace fgunlearn::test {

namespace {

const std::vector<int64_t> kSizes = {1, 0, 3000, 64, 7, 0, 5002, 2, 1024, 0};

// One value per index, in the type that the parameter is updated in, as states and gathered gradients hold them.
TensorList states_for(const TensorList& params, const IndexLists& indices, bool positive) {
  TensorList made;
  for (size_t t = 0; t < params.segments().size(); ++t) {
    std::vector<double> values;
    for (int64_t j = 0; j < indices.lists()[t].count; ++j) {
      values.push_back(positive ? 0.25 + 0.5 * static_cast<double>(j % 5) : std::sin(static_cast<double>(j + 1)));
    }
    made.add(params.segments()[t].dtype == DType::f64 ? DType::f64 : DType::f32, values);
  }
  return made;
}

// The same tensors, gradients, states and steps for the CPU's kernel and for CUDA's.
struct Twins {
  Twins(uint64_t seed, bool gathered)
      : cpu_params(TensorList::normal(kSizes, seed)),
        cuda_params(cpu_params.copy()),
        indices(cpu_params.segments(), seed % 3 == 0 ? 1.0 : 0.3, seed),
        grads(cpu_params.like(seed + 50)) {
    for (size_t t = 0; t < kSizes.size(); ++t) {
      if (gathered) grads.segments()[t].numel = indices.lists()[t].count;
      steps.push_back(Number{static_cast<double>(1 + t * t)});
    }
  }

  TensorList cpu_params;
  TensorList cuda_params;
  IndexLists indices;
  TensorList grads;
  std::vector<Number> steps;
};

StepOptions options_for(uint64_t seed) {
  StepOptions options;
  options.lr = Number{0.01};
  options.grad_scale = Number{seed % 2 == 0 ? 1.0 : 1024.0};
  options.gathered = seed % 4 >= 2;
  options.stochastic = seed % 3 == 1;
  options.seed = seed * 77;
  return options;
}

}  // namespace

TEST(sgd_gives_the_bits_of_the_cpu) {
  in_every_order([] {
    for (uint64_t seed = 0; seed < 12; ++seed) {
      const StepOptions options = options_for(seed);
      const Sgd sgd{seed % 2 == 0 ? 0.9 : 0.0, seed == 4 ? 0.3 : 0.0, seed % 5 == 0 ? 0.0 : 0.1, seed % 4 == 2,
                    seed % 7 == 0};
      Twins twins(seed, options.gathered);
      std::vector<int64_t> first(kSizes.size());
      for (size_t t = 0; t < first.size(); ++t) first[t] = (t + seed) % 2;
      TensorList cpu_buffers;
      TensorList cuda_buffers;
      if (sgd.momentum != 0.0) {
        cpu_buffers = states_for(twins.cpu_params, twins.indices, false);
        cuda_buffers = cpu_buffers.copy();
      }
      cpu::sgd(one_thread(), twins.cpu_params.segments(), twins.grads.segments(), twins.indices.lists(),
               cpu_buffers.segments(), first, twins.steps, sgd, options);
      Device device;
      cuda::sgd(device.context(), twins.cuda_params.segments(), twins.grads.segments(), twins.indices.lists(),
                cuda_buffers.segments(), first, twins.steps, sgd, options);
      CHECK(twins.cuda_params.same_bits(twins.cpu_params), ", seed ", seed);
      CHECK(cuda_buffers.same_bits(cpu_buffers), ", seed ", seed);
    }
  });
}

TEST(adam_gives_the_bits_of_the_cpu) {
  in_every_order([] {
    for (uint64_t seed = 0; seed < 12; ++seed) {
      const StepOptions options = options_for(seed);
      const Adam adam{seed == 5 ? 0.3 : 0.9, 0.999,        seed % 2 == 0 ? 0.0 : 0.1, 1e-8, seed % 4 == 1,
                      seed % 3 == 0,         seed % 7 == 0};
      Twins twins(seed, options.gathered);
      TensorList cpu_first = states_for(twins.cpu_params, twins.indices, false);
      TensorList cpu_second = states_for(twins.cpu_params, twins.indices, true);
      TensorList cpu_largest;
      if (adam.amsgrad) cpu_largest = states_for(twins.cpu_params, twins.indices, true);
      TensorList cuda_first = cpu_first.copy();
      TensorList cuda_second = cpu_second.copy();
      TensorList cuda_largest = cpu_largest.copy();
      cpu::adam(one_thread(), twins.cpu_params.segments(), twins.grads.segments(), twins.indices.lists(),
                cpu_first.segments(), cpu_second.segments(), cpu_largest.segments(), twins.steps, adam, options);
      Device device;
      cuda::adam(device.context(), twins.cuda_params.segments(), twins.grads.segments(), twins.indices.lists(),
                 cuda_first.segments(), cuda_second.segments(), cuda_largest.segments(), twins.steps, adam, options);
      CHECK(twins.cuda_params.same_bits(twins.cpu_params), ", seed ", seed);
      CHECK(cuda_first.same_bits(cpu_first) && cuda_second.same_bits(cpu_second), ", seed ", seed);
      CHECK(cuda_largest.same_bits(cpu_largest), ", seed ", seed);
    }
  });
}

TEST(a_step_reads_its_numbers_from_device_memory) {
  for (const bool wide : {false, true}) {
    Twins twins(3, false);
    Device device;
    const auto on_device = [&](double value) {
      Number number;
      number.wide = wide;
      void* memory = device.allocate<double>(1);
      if (wide) {
        *static_cast<double*>(memory) = value;
      } else {
        *static_cast<float*>(memory) = static_cast<float>(value);
      }
      number.data = memory;
      return number;
    };
    StepOptions host;
    host.lr = Number{0.125};
    host.grad_scale = Number{2.0};
    StepOptions on_it;
    on_it.lr = on_device(0.125);
    on_it.grad_scale = on_device(2.0);
    on_it.found_inf = on_device(0.0);
    std::vector<Number> counts;
    for (const Number& step : twins.steps) counts.push_back(on_device(step()));
    TensorList first = states_for(twins.cpu_params, twins.indices, false);
    TensorList second = states_for(twins.cpu_params, twins.indices, true);
    const TensorList untouched = twins.cpu_params.copy();
    TensorList cuda_first = first.copy();
    TensorList cuda_second = second.copy();
    cpu::adam(one_thread(), twins.cpu_params.segments(), twins.grads.segments(), twins.indices.lists(),
              first.segments(), second.segments(), {}, twins.steps, Adam{}, host);
    cuda::adam(device.context(), twins.cuda_params.segments(), twins.grads.segments(), twins.indices.lists(),
               cuda_first.segments(), cuda_second.segments(), {}, counts, Adam{}, on_it);
    CHECK(twins.cuda_params.same_bits(twins.cpu_params), ", wide ", wide);
    CHECK(!twins.cuda_params.same_bits(untouched), ", wide ", wide);

    on_it.found_inf = on_device(1.0);
    cuda::adam(device.context(), twins.cuda_params.segments(), twins.grads.segments(), twins.indices.lists(),
               cuda_first.segments(), cuda_second.segments(), {}, counts, Adam{}, on_it);
    cuda::sgd(device.context(), twins.cuda_params.segments(), twins.grads.segments(), twins.indices.lists(), {},
              std::vector<int64_t>(kSizes.size()), {}, Sgd{}, on_it);
    CHECK(twins.cuda_params.same_bits(twins.cpu_params), ", wide ", wide);
    CHECK(cuda_first.same_bits(first) && cuda_second.same_bits(second), ", wide ", wide);
  }
}

TEST(a_step_over_hundreds_of_tensors_takes_a_constant_number_of_launches) {
  const std::vector<int64_t> sizes(300, 40);
  TensorList params = TensorList::normal(sizes, 1);
  const IndexLists indices(params.segments(), 0.5, 1);
  const TensorList grads = params.like(2);
  TensorList first = states_for(params, indices, false);
  TensorList second = states_for(params, indices, true);
  StepOptions options;
  options.lr = Number{0.1};
  Device device;
  shim::take_launches();
  cuda::adam(device.context(), params.segments(), grads.segments(), indices.lists(), first.segments(),
             second.segments(), {}, std::vector<Number>(sizes.size(), Number{1.0}), Adam{}, options);
  const int64_t launches = shim::take_launches();
  CHECK(launches <= 9, ", took ", launches);  // the table in parcels of 32,000 bytes, then two kernels
}

TEST(a_step_over_nothing_launches_nothing_and_succeeds) {
  TensorList params = TensorList::normal({0, 5}, 1);
  const IndexLists indices(params.segments(), 0.0, 1);
  const TensorList before = params.copy();
  const TensorList grads = params.like(2);
  TensorList first = states_for(params, indices, false);
  TensorList second = states_for(params, indices, true);
  Device device;
  cuda::adam(device.context(), params.segments(), grads.segments(), indices.lists(), first.segments(),
             second.segments(), {}, {Number{1.0}, Number{1.0}}, Adam{}, StepOptions{});
  cuda::sgd(device.context(), params.segments(), grads.segments(), indices.lists(), {}, {1, 1}, {}, Sgd{},
            StepOptions{});
  CHECK(params.same_bits(before));
}

}  // namespace fgunlearn::test
