// What a thread does with 16 bytes of each operand, on the way forward and on the way back: load, prepare, sum, finish.
//
// The three kinds of kernel around it (spd_perturb.cu) differ in what lies between: nothing, a sum over the threads of
// a warp or block that hold the sample, or a sum over the tiles of a sample.
#pragma once

#include <cmath>

#include "core/spd_perturb.h"
#include "cuda/dense.h"
#include "cuda/dispatch.h"

namespace fgunlearn::cuda {

// Elements [begin, begin + lanes) of one part of a sample with `count` elements. `vectors`: its first element, like
// that of every part, lies at a multiple of 16 bytes in all operands.
struct Place {
  int64_t offset;  // of the part in the batch
  int32_t begin;
  int32_t count;
  bool vectors;
};

// Which elements a thread gets does not depend on where they lie. Lanes past the end are 0.
template <typename T>
__device__ inline Lanes<T> load_lanes(const T* data, const Place& at) {
  constexpr int lanes = kVectorLanes<T>;
  const T* part = data + at.offset;
  if (at.vectors && at.begin + lanes <= at.count) {
    return bits::cast<Lanes<T>>(reinterpret_cast<const uint4*>(part)[at.begin / lanes]);
  }
  Lanes<T> held{};
#pragma unroll
  for (int l = 0; l < lanes; ++l) {
    if (at.begin + l < at.count) held.lane[l] = part[at.begin + l];
  }
  return held;
}

template <typename T>
__device__ inline void store_lanes(T* data, const Place& at, const Lanes<T>& held) {
  constexpr int lanes = kVectorLanes<T>;
  T* part = data + at.offset;
  if (at.vectors && at.begin + lanes <= at.count) {
    reinterpret_cast<uint4*>(part)[at.begin / lanes] = bits::cast<uint4>(held);
    return;
  }
#pragma unroll
  for (int l = 0; l < lanes; ++l) {
    if (at.begin + l < at.count) part[at.begin + l] = held.lane[l];
  }
}

// What is summed over a sample. Forward: the sum of tanh(g)^2, or the largest |tanh(g)|. Back: <tanh(g), u>, and the
// number of elements at the norm. A thread adds up a few elements in A; all beyond is in double.
template <typename A>
struct Sums {
  A first = A(0);
  A second = A(0);
};

// A NaN is larger than everything.
template <typename A>
__device__ inline A larger(A a, A b) {
  return magnitude_bits(a) > magnitude_bits(b) ? a : b;
}

// A sample's rule, as far as its sums are known.
template <typename A>
struct Known {
  Shift<A> shift;
  Pull<A> pull;
  Ball ball;  // of the pull: none inside the ball
};

template <typename T_>
struct Forward {
  using T = T_;
  using A = typename Convert<T>::accumulate_t;
  static constexpr int lanes = kVectorLanes<T>;
  static constexpr int blocks = 4;  // per multiprocessor, of the kernels over tiles: up to 64 registers per thread
  const T* x;
  const T* g;
  T* out;
  A* norms;

  struct Held {
    Lanes<T> x;
    Lanes<T> g;
  };
  struct Ready {
    Lanes<T> x;
    A t[lanes];
  };

  __device__ Held load(const Place& at) const { return {load_lanes(x, at), load_lanes(g, at)}; }
  __device__ Held load_for_sums(const Place& at) const { return {{}, load_lanes(g, at)}; }

  __device__ Ready prepare(const Known<A>&, const Held& held) const {
    Ready ready;
    ready.x = held.x;
#pragma unroll
    for (int l = 0; l < lanes; ++l) ready.t[l] = hyperbolic_tangent(Convert<T>::load(held.g.lane[l]));
    return ready;
  }

  static __device__ bool takes_largest(Ball ball) { return ball == Ball::linf; }

  __device__ void add(const Known<A>&, Ball ball, const Ready& ready, Sums<A>& sums) const {
#pragma unroll
    for (int l = 0; l < lanes; ++l) {
      const A t = ready.t[l];
      sums.first = ball == Ball::l2 ? sums.first + t * t : larger(sums.first, bits::cast<A>(magnitude_bits(t)));
    }
  }

  __host__ __device__ bool may_want_sums(const SpdRule& rule) const { return rule.ball != Ball::none; }
  __device__ bool wants_sums(const SpdRule& rule, int64_t) const { return may_want_sums(rule); }
  __device__ Known<A> known_before(const SpdRule& rule, int64_t sample) const {
    return {rule.shift_of<A>(sample, A(0)), {}, Ball::none};
  }
  __device__ A norm_of(const SpdRule& rule, int64_t sample, const Sums<double>& sums) const {
    const A eps = rule.eps_of<A>(sample);
    if (rule.ball == Ball::linf) return one_nan(eps * static_cast<A>(sums.first));
    return one_nan(static_cast<A>(static_cast<double>(eps) * sqrt(sums.first)));
  }
  __device__ Known<A> known_after(const SpdRule& rule, int64_t sample, const Sums<double>& sums) const {
    return {rule.shift_of<A>(sample, norm_of(rule, sample, sums)), {}, Ball::none};
  }
  // By one thread of a sample.
  __device__ void note(const SpdRule& rule, int64_t sample, const Sums<double>& sums) const {
    norms[sample] = norm_of(rule, sample, sums);
  }

  __device__ void finish(const Place& at, const Known<A>& known, const Ready& ready) const {
    Lanes<T> moved;
#pragma unroll
    for (int l = 0; l < lanes; ++l) {
      moved.lane[l] = Convert<T>::store(known.shift.apply(Convert<T>::load(ready.x.lane[l]), ready.t[l]));
    }
    store_lanes(out, at, moved);
  }
};

template <typename T_>
struct Backward {
  using T = T_;
  using A = typename Convert<T>::accumulate_t;
  static constexpr int lanes = kVectorLanes<T>;
  static constexpr int blocks = sizeof(T) == 2 ? 2 : 3;  // up to 128 registers for eight lanes, 80 for fewer
  const T* x;
  const T* g;
  const T* grad;
  const A* norms;
  T* dx;  // or null
  T* dg;  // or null

  struct Held {
    Lanes<T> x;
    Lanes<T> g;
    Lanes<T> grad;
  };
  struct Ready {
    A t[lanes];
    A u[lanes];
  };

  __device__ Held load(const Place& at) const { return {load_lanes(x, at), load_lanes(g, at), load_lanes(grad, at)}; }
  __device__ Held load_for_sums(const Place& at) const { return load(at); }

  __device__ Ready prepare(const Known<A>& known, const Held& held) const {
    Ready ready;
#pragma unroll
    for (int l = 0; l < lanes; ++l) {
      ready.t[l] = hyperbolic_tangent(Convert<T>::load(held.g.lane[l]));
      ready.u[l] =
          known.shift.passed(Convert<T>::load(held.x.lane[l]), ready.t[l], Convert<T>::load(held.grad.lane[l]));
    }
    return ready;
  }

  static __device__ bool takes_largest(Ball) { return false; }

  __device__ void add(const Known<A>& known, Ball, const Ready& ready, Sums<A>& sums) const {
#pragma unroll
    for (int l = 0; l < lanes; ++l) {
      sums.first += ready.t[l] * ready.u[l];
      sums.second += known.pull.is_largest(known.shift.eps, ready.t[l]) ? A(1) : A(0);
    }
  }

  __host__ __device__ bool may_want_sums(const SpdRule& rule) const { return rule.ball != Ball::none && dg != nullptr; }
  __device__ bool wants_sums(const SpdRule& rule, int64_t sample) const {
    return may_want_sums(rule) && !rule.is_inside(norms[sample]);
  }
  __device__ Known<A> known_before(const SpdRule& rule, int64_t sample) const {
    const A norm = rule.ball == Ball::none ? A(0) : norms[sample];
    return {rule.shift_of<A>(sample, norm), {A(0), norm}, Ball::none};
  }
  __device__ Known<A> known_after(const SpdRule& rule, int64_t sample, const Sums<double>& sums) const {
    const A norm = norms[sample];
    const Pull<A> pull = rule.pull_of(rule.eps_of<A>(sample), norm, sums.first, static_cast<int64_t>(sums.second));
    return {rule.shift_of<A>(sample, norm), pull, rule.ball};
  }
  __device__ void note(const SpdRule&, int64_t, const Sums<double>&) const {}

  __device__ void finish(const Place& at, const Known<A>& known, const Ready& ready) const {
    if (dg != nullptr) {
      Lanes<T> pulled;
#pragma unroll
      for (int l = 0; l < lanes; ++l) {
        const A t = ready.t[l];
        const A pull = known.ball == Ball::none ? A(0)
                       : known.ball == Ball::l2 ? known.pull.template at<Ball::l2>(known.shift.eps, t)
                                                : known.pull.template at<Ball::linf>(known.shift.eps, t);
        pulled.lane[l] = Convert<T>::store(gradient_of(known.shift, t, ready.u[l], pull));
      }
      store_lanes(dg, at, pulled);
    }
    if (dx != nullptr) {
      Lanes<T> passed;
#pragma unroll
      for (int l = 0; l < lanes; ++l) passed.lane[l] = Convert<T>::store(ready.u[l]);
      store_lanes(dx, at, passed);
    }
  }
};

}  // namespace fgunlearn::cuda
