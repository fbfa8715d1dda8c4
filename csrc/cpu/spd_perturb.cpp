#include "cpu/spd_perturb.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "cpu/isa/table.h"

namespace fgunlearn::cpu {

namespace {

constexpr int64_t kPart = int64_t{1} << 15;  // elements of a work item: four buffers of 128 KiB, within L2

// A work item is a part of one sample, or several whole samples that are smaller than a part.
struct Part {
  int64_t sample;
  int64_t begin;
  int64_t count;
};

struct Parts {
  int64_t size;      // of a sample; not 0
  int64_t each;      // parts of a sample
  int64_t together;  // samples in a part

  explicit Parts(int64_t size)
      : size(size), each((size + kPart - 1) / kPart), together(std::max<int64_t>(1, kPart / size)) {}

  Part part(int64_t sample, int64_t p) const { return {sample, p * kPart, std::min(kPart, size - p * kPart)}; }

  // Calls body(part) for all parts of all samples.
  template <typename Body>
  void for_each(const Executor& executor, int64_t samples, Body&& body) const {
    const int64_t items = each > 1 ? samples * each : (samples + together - 1) / together;
    executor.for_each(items, [&](int64_t, int64_t item) {
      if (each > 1) {
        body(part(item / each, item % each));
        return;
      }
      const int64_t end = std::min(samples, (item + 1) * together);
      for (int64_t sample = item * together; sample < end; ++sample) body(part(sample, 0));
    });
  }
};

// Two passes over every sample: measure(part) for its parts, combine(sample, what was measured of them), and
// apply(part, what that gave). Where there are samples enough for all workers, each is finished while it is in the
// cache; else the workers share the parts of one.
template <typename Measured, typename State, typename Measure, typename Combine, typename Apply>
void in_two_passes(const Executor& executor, const SpdBatch& batch, Measure&& measure, Combine&& combine,
                   Apply&& apply) {
  const Parts parts(batch.size);
  if (parts.each == 1 || batch.samples >= 8 * executor.workers()) {
    const int64_t items = (batch.samples + parts.together - 1) / parts.together;
    executor.for_each(items, [&](int64_t, int64_t item) {
      std::vector<Measured> measured(static_cast<size_t>(parts.each));
      const int64_t end = std::min(batch.samples, (item + 1) * parts.together);
      for (int64_t sample = item * parts.together; sample < end; ++sample) {
        for (int64_t p = 0; p < parts.each; ++p) measured[p] = measure(parts.part(sample, p));
        const State state = combine(sample, measured.data(), parts.each);
        for (int64_t p = parts.each - 1; p >= 0; --p) apply(parts.part(sample, p), state);  // the last is the nearest
      }
    });
    return;
  }
  std::vector<Measured> measured(static_cast<size_t>(batch.samples * parts.each));
  parts.for_each(executor, batch.samples,
                 [&](const Part& part) { measured[part.sample * parts.each + part.begin / kPart] = measure(part); });
  std::vector<State> states;
  for (int64_t sample = 0; sample < batch.samples; ++sample) {
    states.push_back(combine(sample, measured.data() + sample * parts.each, parts.each));
  }
  parts.for_each(executor, batch.samples, [&](const Part& part) { apply(part, states[part.sample]); });
}

// Calls body with a value of the type that the batch is computed in.
template <typename Body>
void dispatch_accumulate(DType dtype, Body&& body) {
  return dtype == DType::f64 ? body(double{}) : body(float{});
}

// Element `part.begin` of the part's sample.
template <typename Void>
Void* at(const SpdBatch& batch, Void* data, const Part& part) {
  using Byte = std::conditional_t<std::is_const_v<Void>, const char, char>;
  if (data == nullptr) return nullptr;
  return static_cast<Byte*>(data) + (part.sample * batch.size + part.begin) * item_size(batch.dtype);
}

// From the largest |tanh|, or the sum of squares, of a sample's parts.
template <typename A>
A norm_of(Ball ball, A eps, const double* measured, int64_t parts) {
  double total = 0.0;
  if (ball == Ball::linf) {
    for (int64_t p = 0; p < parts; ++p) {  // by bits, in which a NaN is above everything: of any part, it stays
      total = magnitude_bits(measured[p]) > magnitude_bits(total) ? measured[p] : total;
    }
    return one_nan(eps * static_cast<A>(total));  // the largest |eps * t|, to the bit
  }
  for (int64_t p = 0; p < parts; ++p) total += measured[p];
  return one_nan(static_cast<A>(static_cast<double>(eps) * std::sqrt(total)));
}

template <typename A>
void perturb_as(const Executor& executor, const SpdBatch& batch, const SpdRule& rule, void* out, A* norms) {
  const int dtype = static_cast<int>(batch.dtype);
  const auto apply = [&](const Part& part, const Shift<A>& shift) {
    isa().shift[dtype](at(batch, batch.x, part), at(batch, batch.g, part), at(batch, out, part), part.count,
                       shift.template as<double>(), rule.ball != Ball::none);
  };
  if (rule.ball == Ball::none) {
    Parts(batch.size).for_each(executor, batch.samples, [&](const Part& part) {
      apply(part, rule.shift_of<A>(part.sample, A(0)));
    });
    return;
  }
  const auto measure = rule.ball == Ball::l2 ? isa().sum_of_squared_tanh[dtype] : isa().largest_tanh[dtype];
  in_two_passes<double, Shift<A>>(
      executor, batch,
      [&](const Part& part) { return measure(at(batch, batch.g, part), part.count, at(batch, out, part)); },
      [&](int64_t sample, const double* measured, int64_t parts) {
        norms[sample] = norm_of(rule.ball, rule.eps_of<A>(sample), measured, parts);
        return rule.shift_of<A>(sample, norms[sample]);
      },
      apply);
}

template <typename A>
void backward_as(const Executor& executor, const SpdBatch& batch, const SpdRule& rule, const void* grad, const A* norms,
                 void* dx, void* dg) {
  if (dx == nullptr && dg == nullptr) return;
  const int dtype = static_cast<int>(batch.dtype);
  struct State {
    Shift<A> shift;
    Pull<A> pull;
    Ball ball;  // none: nothing is pulled
  };
  const auto apply = [&](const Part& part, const State& state) {
    isa().shift_backward[dtype](at(batch, batch.x, part), at(batch, batch.g, part), at(batch, grad, part),
                                at(batch, dx, part), at(batch, dg, part), part.count, state.shift.template as<double>(),
                                state.pull.template as<double>(), state.ball, state.ball != Ball::none);
  };
  const auto shift_of = [&](int64_t sample) {
    return rule.shift_of<A>(sample, rule.ball == Ball::none ? A(0) : norms[sample]);
  };
  if (rule.ball == Ball::none || dg == nullptr) {  // dx does not ask what the ball takes
    Parts(batch.size).for_each(executor, batch.samples, [&](const Part& part) {
      apply(part, {shift_of(part.sample), {}, Ball::none});
    });
    return;
  }
  in_two_passes<SpdSums, State>(
      executor, batch,
      [&](const Part& part) {
        const A norm = norms[part.sample];
        if (rule.is_inside(norm)) return SpdSums{};  // nothing is pulled: one pass
        return isa().pull_sums[dtype](at(batch, batch.x, part), at(batch, batch.g, part), at(batch, grad, part),
                                      part.count, shift_of(part.sample).template as<double>(),
                                      static_cast<double>(norm), at(batch, dg, part));
      },
      [&](int64_t sample, const SpdSums* measured, int64_t parts) {
        const Shift<A> shift = shift_of(sample);
        if (rule.is_inside(norms[sample])) return State{shift, {}, Ball::none};
        SpdSums sums;
        for (int64_t p = 0; p < parts; ++p) {
          sums.product += measured[p].product;
          sums.ties += measured[p].ties;
        }
        return State{shift, rule.pull_of(shift.eps, norms[sample], sums.product, sums.ties), rule.ball};
      },
      apply);
}

}  // namespace

void spd_perturb(const Executor& executor, const SpdBatch& batch, const SpdRule& rule, void* out, void* norms) {
  dispatch_accumulate(batch.dtype, [&](auto tag) {
    using A = decltype(tag);
    A* typed = static_cast<A*>(norms);
    if (rule.ball != Ball::none) std::fill_n(typed, batch.samples, A(0));
    if (batch.samples > 0 && batch.size > 0) perturb_as<A>(executor, rule.merged(batch), rule, out, typed);
  });
}

void spd_perturb_backward(const Executor& executor, const SpdBatch& batch, const SpdRule& rule, const void* grad,
                          const void* norms, void* dx, void* dg) {
  if (batch.samples == 0 || batch.size == 0) return;
  dispatch_accumulate(batch.dtype, [&](auto tag) {
    using A = decltype(tag);
    backward_as<A>(executor, rule.merged(batch), rule, grad, static_cast<const A*>(norms), dx, dg);
  });
}

}  // namespace fgunlearn::cpu
