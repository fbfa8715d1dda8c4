// SPD-GAN's shift and its derivative: the inner loops, over contiguous elements of one sample.
//
// shift reads x and g (8 bytes per f32 element) and writes x~ (4); shift_backward reads the gradient, x and g (12) and
// writes dg, or dx, or both (4 each). That is the floor without a norm. A norm's sums read g once more on the way
// forward, and all three once more on the way back, from the cache where the sample fits there. About 45 vector
// operations per 16 floats, tanh's among them, hide behind the memory with AVX-512.
#pragma once

#include <cstring>
#include <type_traits>

#include "core/spd_perturb.h"
#include "cpu/isa/convert.h"
#include "cpu/isa/table.h"

namespace fgunlearn::cpu::FGU_ISA {

constexpr int64_t kSpdTile = 1024;  // elements at a time: 4 KiB of each of up to five float buffers, within L1

// Elements as they are computed with: in place where that is their own type, else in a tile that is converted.
template <typename T>
struct Tile {
  using A = typename Convert<T>::accumulate_t;
  static constexpr bool in_place = std::is_same_v<T, A>;
  A room[in_place ? 1 : kSpdTile];

  const A* read(const T* from, int64_t n) {
    if constexpr (in_place) {
      return from;
    } else {
      widen(from, n, room);
      return room;
    }
  }
  A* target(T* to) {
    if constexpr (in_place) {
      return to;
    } else {
      return room;
    }
  }
  void write([[maybe_unused]] T* to, [[maybe_unused]] int64_t n) {
    if constexpr (!in_place) narrow(room, n, to);
  }
};

// Calls body(begin, count) for each tile of n elements.
template <typename Body>
inline void for_each_tile(int64_t n, Body&& body) {
  for (int64_t begin = 0; begin < n; begin += kSpdTile) body(begin, n - begin < kSpdTile ? n - begin : kSpdTile);
}

template <typename A>
inline void tanh_of(const A* __restrict g, int64_t n, A* __restrict t) {
  for (int64_t i = 0; i < n; ++i) t[i] = hyperbolic_tangent(g[i]);
}

// <a, b> of a tile: sixteen sums side by side in the tile's own type, 64 terms each, and those in double. The same
// order whatever the width of the vectors.
template <typename A>
inline double inner_product(const A* a, const A* b, int64_t n) {
  constexpr int lanes = 16;
  typedef A Vector __attribute__((vector_size(lanes * sizeof(A))));
  Vector sums = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    Vector va, vb;
    memcpy(&va, a + i, sizeof(va));
    memcpy(&vb, b + i, sizeof(vb));
    sums += va * vb;
  }
  double total = 0.0;
  for (int l = 0; l < lanes; ++l) total += static_cast<double>(sums[l]);
  for (; i < n; ++i) total += static_cast<double>(a[i] * b[i]);
  return total;
}

template <typename T>
void shift(const void* x_, const void* g_, void* out_, int64_t n, const Shift<double>& shift_) {
  using A = typename Convert<T>::accumulate_t;
  const Shift<A> how = shift_.as<A>();
  Tile<T> xs, gs, outs;
  for_each_tile(n, [&](int64_t begin, int64_t count) {
    T* to = static_cast<T*>(out_) + begin;
    const A* x = xs.read(static_cast<const T*>(x_) + begin, count);
    const A* g = gs.read(static_cast<const T*>(g_) + begin, count);
    A* __restrict out = outs.target(to);
    for (int64_t i = 0; i < count; ++i) out[i] = how.apply(x[i], hyperbolic_tangent(g[i]));
    outs.write(to, count);
  });
}

template <typename T>
double sum_of_squared_tanh(const void* g_, int64_t n) {
  using A = typename Convert<T>::accumulate_t;
  Tile<T> gs;
  A t[kSpdTile];
  double sum = 0.0;
  for_each_tile(n, [&](int64_t begin, int64_t count) {
    tanh_of(gs.read(static_cast<const T*>(g_) + begin, count), count, t);
    sum += inner_product(t, t, count);
  });
  return sum;
}

template <typename T>
double largest_tanh(const void* g_, int64_t n) {
  using A = typename Convert<T>::accumulate_t;
  using Bits = typename Pattern<A>::type;
  Tile<T> gs;
  Bits largest = 0;
  for_each_tile(n, [&](int64_t begin, int64_t count) {
    const A* g = gs.read(static_cast<const T*>(g_) + begin, count);
    for (int64_t i = 0; i < count; ++i) {
      const Bits one = magnitude_bits(hyperbolic_tangent(g[i]));
      largest = one > largest ? one : largest;
    }
  });
  return static_cast<double>(bits::cast<A>(largest));
}

template <typename T>
SpdSums pull_sums(const void* x_, const void* g_, const void* grad_, int64_t n, const Shift<double>& shift_,
                  double norm) {
  using A = typename Convert<T>::accumulate_t;
  const Shift<A> how = shift_.as<A>();
  const Pull<A> pull{A(0), static_cast<A>(norm)};
  Tile<T> xs, gs, grads;
  A t[kSpdTile];
  A u[kSpdTile];
  SpdSums sums;
  for_each_tile(n, [&](int64_t begin, int64_t count) {
    const A* x = xs.read(static_cast<const T*>(x_) + begin, count);
    const A* grad = grads.read(static_cast<const T*>(grad_) + begin, count);
    tanh_of(gs.read(static_cast<const T*>(g_) + begin, count), count, t);
    int32_t ties = 0;
    for (int64_t i = 0; i < count; ++i) {
      u[i] = how.passed(x[i], t[i], grad[i]);
      ties += pull.is_largest(how.eps, t[i]);
    }
    sums.product += inner_product(t, u, count);
    sums.ties += ties;
  });
  return sums;
}

template <typename T, Ball kBall>
void shift_backward_of(const void* x_, const void* g_, const void* grad_, void* dx_, void* dg_, int64_t n,
                       const Shift<double>& shift_, const Pull<double>& pull_) {
  using A = typename Convert<T>::accumulate_t;
  const Shift<A> how = shift_.as<A>();
  const Pull<A> pull = pull_.as<A>();
  Tile<T> xs, gs, grads, outs;
  for_each_tile(n, [&](int64_t begin, int64_t count) {
    const A* x = xs.read(static_cast<const T*>(x_) + begin, count);
    const A* g = gs.read(static_cast<const T*>(g_) + begin, count);
    const A* grad = grads.read(static_cast<const T*>(grad_) + begin, count);
    if (dg_ != nullptr) {
      T* to = static_cast<T*>(dg_) + begin;
      A* __restrict dg = outs.target(to);
      for (int64_t i = 0; i < count; ++i) {
        const A t = hyperbolic_tangent(g[i]);
        dg[i] = gradient_of(how, t, how.passed(x[i], t, grad[i]), pull.template at<kBall>(how.eps, t));
      }
      outs.write(to, count);
    }
    if (dx_ != nullptr) {  // a loop of its own: its inputs lie in L1, and both outputs are rarely wanted
      T* to = static_cast<T*>(dx_) + begin;
      A* __restrict dx = outs.target(to);
      for (int64_t i = 0; i < count; ++i) dx[i] = how.passed(x[i], hyperbolic_tangent(g[i]), grad[i]);
      outs.write(to, count);
    }
  });
}

template <typename T>
void shift_backward(const void* x, const void* g, const void* grad, void* dx, void* dg, int64_t n,
                    const Shift<double>& shift, const Pull<double>& pull, Ball ball) {
  switch (ball) {
    case Ball::none:
      return shift_backward_of<T, Ball::none>(x, g, grad, dx, dg, n, shift, pull);
    case Ball::l2:
      return shift_backward_of<T, Ball::l2>(x, g, grad, dx, dg, n, shift, pull);
    case Ball::linf:
      return shift_backward_of<T, Ball::linf>(x, g, grad, dx, dg, n, shift, pull);
  }
}

}  // namespace fgunlearn::cpu::FGU_ISA
