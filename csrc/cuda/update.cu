#include "cuda/update.h"

#include <type_traits>

#include "cuda/coordinates.h"
#include "cuda/nvtx.h"

namespace fgunlearn::cuda {

namespace {

// What a step needs to know of one tensor.
struct Stepped {
  Coordinates at;
  void* param;
  const void* grad;
  Layout of_grad;
  int64_t offset;  // global index of the first element
  Number step;
};

struct SgdEntry : Stepped {
  void* buffer;  // null: no momentum
  bool first;
};

struct AdamEntry : Stepped {
  void* first_moment;
  void* second_moment;
  void* largest;  // null: no amsgrad
  AdamRule<float> narrow;
  AdamRule<double> wide;

  template <typename A>
  __device__ const AdamRule<A>& rule() const {
    if constexpr (std::is_same_v<A, double>) {
      return wide;
    } else {
      return narrow;
    }
  }
};

void describe(Stepped& entry, size_t t, const std::vector<Segment>& params, const std::vector<Segment>& grads,
              const std::vector<Number>& steps) {
  entry.param = params[t].data;
  entry.grad = grads[t].data;
  entry.of_grad = grads[t].layout;
  entry.offset = params[t].offset;
  entry.step = steps.empty() ? Number{} : steps[t];
}

void* state(const std::vector<Segment>& states, size_t t) { return states.empty() ? nullptr : states[t].data; }

// body(parameter, gradient) gives coordinate j's new parameter.
template <typename T, bool kContiguous, typename Body>
__device__ void move_coordinate(const Stepped& entry, const StepOptions& options, int64_t j, int64_t index,
                                Body&& body) {
  using C = Convert<T>;
  T* where = in_global<T>(entry.param) + place_of<kContiguous>(entry.at.layout, index);
  const T grad = in_global<T>(entry.grad)[options.gathered ? j : place_of<kContiguous>(entry.of_grad, index)];
  const auto moved = body(C::load(*where), C::load(grad));
  if constexpr (std::is_same_v<T, bf16_t>) {
    if (options.stochastic) {
      *where = to_bf16_at_random(moved, rounding_noise(options.seed, entry.step(), entry.offset + index));
      return;
    }
  }
  *where = C::store(moved);
}

template <bool kContiguous>
__global__ void __launch_bounds__(kThreads, 4)
    sgd_kernel(CoordinateTable<SgdEntry> table, Sgd sgd, StepOptions options) {
  if (options.found_inf() != 0.0) return;
  const SgdRule<float> narrow(sgd, options);
  for_each_coordinate(table, [&](const SgdEntry& entry, int64_t j, int64_t index) {
    device_dispatch(entry.at.dtype, [&](auto tag) {
      using T = decltype(tag);
      using A = typename Convert<T>::accumulate_t;
      move_coordinate<T, kContiguous>(entry, options, j, index, [&](A param, A grad) {
        const auto step = [&](const SgdRule<A>& rule) {
          if (entry.buffer == nullptr) return rule.plain(param, grad);
          return rule.with_momentum(param, grad, in_global<A>(entry.buffer)[j], entry.first);
        };
        if constexpr (std::is_same_v<A, double>) {
          return step(SgdRule<double>(sgd, options));  // rare: not worth registers of its own
        } else {
          return step(narrow);
        }
      });
    });
  });
}

// The bias corrections, once per tensor: they take a few dozen multiplications of doubles.
__global__ void __launch_bounds__(kThreads, 2)
    adam_rules(AdamEntry* entries, int32_t count, Adam adam, StepOptions options) {
  for (int32_t t = static_cast<int32_t>(threadIdx.x); t < count; t += kThreads) {
    const double step = entries[t].step();
    entries[t].narrow = AdamRule<float>(adam, options, step);
    entries[t].wide = AdamRule<double>(adam, options, step);
  }
}

template <bool kContiguous>
__global__ void __launch_bounds__(kThreads, 4) adam_kernel(CoordinateTable<AdamEntry> table, StepOptions options) {
  if (options.found_inf() != 0.0) return;
  for_each_coordinate(table, [&](const AdamEntry& entry, int64_t j, int64_t index) {
    device_dispatch(entry.at.dtype, [&](auto tag) {
      using T = decltype(tag);
      using A = typename Convert<T>::accumulate_t;
      move_coordinate<T, kContiguous>(entry, options, j, index, [&](A param, A grad) {
        const AdamRule<A>& rule = entry.template rule<A>();
        A& first = in_global<A>(entry.first_moment)[j];
        A& second = in_global<A>(entry.second_moment)[j];
        if (entry.largest == nullptr) return rule.template moved<false>(param, grad, first, second, nullptr);
        return rule.template moved<true>(param, grad, first, second, in_global<A>(entry.largest) + j);
      });
    });
  });
}

bool contiguous(const std::vector<Segment>& params, const std::vector<Segment>& grads, const StepOptions& options) {
  return all_contiguous(params) && (options.gathered || all_contiguous(grads));
}

}  // namespace

void sgd(const Context& context, const std::vector<Segment>& params, const std::vector<Segment>& grads,
         const std::vector<IndexList>& indices, const std::vector<Segment>& buffers, const std::vector<int64_t>& first,
         const std::vector<Number>& steps, const Sgd& sgd, const StepOptions& options) {
  const Range range("fgunlearn::sgd");
  std::vector<SgdEntry> entries(params.size());
  for (size_t t = 0; t < params.size(); ++t) {
    describe(entries[t], t, params, grads, steps);
    entries[t].buffer = state(buffers, t);
    entries[t].first = first[t] != 0;
  }
  const auto table = coordinate_table(context, entries, params, indices);
  const auto kernel = contiguous(params, grads, options) ? sgd_kernel<true> : sgd_kernel<false>;
  launch(context, kernel, coordinate_grid(context, table), kThreads, table, sgd, options);
}

void adam(const Context& context, const std::vector<Segment>& params, const std::vector<Segment>& grads,
          const std::vector<IndexList>& indices, const std::vector<Segment>& first_moments,
          const std::vector<Segment>& second_moments, const std::vector<Segment>& largest,
          const std::vector<Number>& steps, const Adam& adam, const StepOptions& options) {
  const Range range("fgunlearn::adam");
  std::vector<AdamEntry> entries(params.size());
  for (size_t t = 0; t < params.size(); ++t) {
    describe(entries[t], t, params, grads, steps);
    entries[t].first_moment = state(first_moments, t);
    entries[t].second_moment = state(second_moments, t);
    entries[t].largest = state(largest, t);
  }
  const auto table = coordinate_table(context, entries, params, indices);
  const unsigned blocks = coordinate_grid(context, table);
  // The table is this call's own memory, fresh from the upload.
  launch(context, adam_rules, blocks == 0 ? 0u : 1u, kThreads, const_cast<AdamEntry*>(table.entries), table.lists, adam,
         options);
  const auto kernel = contiguous(params, grads, options) ? adam_kernel<true> : adam_kernel<false>;
  launch(context, kernel, blocks, kThreads, table, options);
}

}  // namespace fgunlearn::cuda
