// SPD-GAN's shift and its derivative: the inner loops, over contiguous elements of one sample.
//
// shift reads x and g (8 bytes per f32 element) and writes x~ (4); shift_backward reads the gradient, x and g (12) and
// writes dg, or dx, or both (4 each). That is the floor, and what is moved without a norm. A norm's sums come first:
// they read g, or all three, and write tanh(g) where the result will be; the second pass meets both in the cache where
// the sample fits there. Per 16 floats tanh takes 17 vector operations and a division, the rest about 10
// forward and 18 back: measured 5.8 ns forward and 10 ns back on one core with AVX-512 at 3 GHz. Two such cores ask for
// 65 and 50 GB/s: out of the cache, the memory sets the pace.
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

// tanh of g's tiles. A pass that sums over the sample may keep it where the result will be, if that is of the tile's
// own type, for the pass that needs the sum: tanh costs more than reading it again from the cache.
template <typename T>
struct TanhTile {
  using A = typename Convert<T>::accumulate_t;
  A room[kSpdTile];
  Tile<T> gs;

  // Computed; and kept in `keep`, the tile of the result, where there is one and it can hold it.
  const A* made(const T* g_, int64_t n, [[maybe_unused]] T* keep) {
    const A* __restrict g = gs.read(g_, n);
    for (int64_t i = 0; i < n; ++i) room[i] = hyperbolic_tangent(g[i]);
    if constexpr (Tile<T>::in_place) {
      if (keep != nullptr) memcpy(keep, room, static_cast<size_t>(n) * sizeof(A));
    }
    return room;
  }

  // Calls body(t), with t(i) what was kept in the result's tile. A copy, so that nobody writes what he reads. Or, if
  // nothing was, with t(i) computed from g there and then: the rest of the loop's work hides behind the division.
  template <typename Body>
  void with(const T* g_, int64_t n, [[maybe_unused]] const T* kept, Body&& body) {
    if constexpr (Tile<T>::in_place) {
      if (kept != nullptr) {
        memcpy(room, kept, static_cast<size_t>(n) * sizeof(A));
        return body([t = room](int64_t i) { return t[i]; });
      }
    }
    const A* __restrict g = gs.read(g_, n);
    body([g](int64_t i) { return hyperbolic_tangent(g[i]); });
  }
};

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

// Pointers to the tile that begins at an element; a null stays null.
template <typename T>
inline const T* tile_at(const void* data, int64_t begin) {
  return data == nullptr ? nullptr : static_cast<const T*>(data) + begin;
}
template <typename T>
inline T* tile_at(void* data, int64_t begin) {
  return data == nullptr ? nullptr : static_cast<T*>(data) + begin;
}

template <typename T>
void shift(const void* x_, const void* g_, void* out_, int64_t n, const Shift<double>& shift_, bool kept) {
  using A = typename Convert<T>::accumulate_t;
  const Shift<A> how = shift_.as<A>();
  Tile<T> xs, outs;
  TanhTile<T> tanhs;
  for_each_tile(n, [&](int64_t begin, int64_t count) {
    T* to = tile_at<T>(out_, begin);
    const A* __restrict x = xs.read(tile_at<T>(x_, begin), count);
    A* __restrict out = outs.target(to);
    tanhs.with(tile_at<T>(g_, begin), count, kept ? to : nullptr, [&](auto t) {
      for (int64_t i = 0; i < count; ++i) out[i] = how.apply(x[i], t(i));
    });
    outs.write(to, count);
  });
}

template <typename T>
double sum_of_squared_tanh(const void* g_, int64_t n, void* keep_) {
  TanhTile<T> tanhs;
  double sum = 0.0;
  for_each_tile(n, [&](int64_t begin, int64_t count) {
    const auto* t = tanhs.made(tile_at<T>(g_, begin), count, tile_at<T>(keep_, begin));
    sum += inner_product(t, t, count);
  });
  return sum;
}

template <typename T>
double largest_tanh(const void* g_, int64_t n, void* keep_) {
  using A = typename Convert<T>::accumulate_t;
  using Bits = typename Pattern<A>::type;
  TanhTile<T> tanhs;
  Bits largest = 0;
  for_each_tile(n, [&](int64_t begin, int64_t count) {
    const A* t = tanhs.made(tile_at<T>(g_, begin), count, tile_at<T>(keep_, begin));
    for (int64_t i = 0; i < count; ++i) {
      const Bits one = magnitude_bits(t[i]);
      largest = one > largest ? one : largest;
    }
  });
  return static_cast<double>(bits::cast<A>(largest));
}

template <typename T>
SpdSums pull_sums(const void* x_, const void* g_, const void* grad_, int64_t n, const Shift<double>& shift_,
                  double norm, void* keep_) {
  using A = typename Convert<T>::accumulate_t;
  const Shift<A> how = shift_.as<A>();
  const Pull<A> pull{A(0), static_cast<A>(norm)};
  Tile<T> xs, grads;
  TanhTile<T> tanhs;
  A u[kSpdTile];
  SpdSums sums;
  for_each_tile(n, [&](int64_t begin, int64_t count) {
    const A* t = tanhs.made(tile_at<T>(g_, begin), count, tile_at<T>(keep_, begin));
    const A* x = xs.read(tile_at<T>(x_, begin), count);
    const A* grad = grads.read(tile_at<T>(grad_, begin), count);
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
                       const Shift<double>& shift_, const Pull<double>& pull_, bool kept) {
  using A = typename Convert<T>::accumulate_t;
  const Shift<A> how = shift_.as<A>();
  const Pull<A> pull = pull_.as<A>();
  Tile<T> xs, grads, to_gs, to_xs;
  TanhTile<T> tanhs;
  for_each_tile(n, [&](int64_t begin, int64_t count) {
    T* to_g = tile_at<T>(dg_, begin);
    T* to_x = tile_at<T>(dx_, begin);
    const A* __restrict x = xs.read(tile_at<T>(x_, begin), count);
    const A* __restrict grad = grads.read(tile_at<T>(grad_, begin), count);
    A* __restrict dg = to_g == nullptr ? nullptr : to_gs.target(to_g);
    A* __restrict dx = to_x == nullptr ? nullptr : to_xs.target(to_x);
    tanhs.with(tile_at<T>(g_, begin), count, kept ? to_g : nullptr, [&](auto tanh) {
      const auto u = [&](int64_t i, A t) { return how.passed(x[i], t, grad[i]); };
      const auto to = [&](A t, A passed) { return gradient_of(how, t, passed, pull.template at<kBall>(how.eps, t)); };
      if (dx == nullptr) {
        for (int64_t i = 0; i < count; ++i) {
          const A t = tanh(i);
          dg[i] = to(t, u(i, t));
        }
      } else if (dg == nullptr) {
        for (int64_t i = 0; i < count; ++i) dx[i] = u(i, tanh(i));
      } else {
        for (int64_t i = 0; i < count; ++i) {
          const A t = tanh(i), passed = u(i, t);
          dg[i] = to(t, passed);
          dx[i] = passed;
        }
      }
    });
    if (to_g != nullptr) to_gs.write(to_g, count);
    if (to_x != nullptr) to_xs.write(to_x, count);
  });
}

template <typename T>
void shift_backward(const void* x, const void* g, const void* grad, void* dx, void* dg, int64_t n,
                    const Shift<double>& shift, const Pull<double>& pull, Ball ball, bool kept) {
  switch (ball) {
    case Ball::none:
      return shift_backward_of<T, Ball::none>(x, g, grad, dx, dg, n, shift, pull, kept);
    case Ball::l2:
      return shift_backward_of<T, Ball::l2>(x, g, grad, dx, dg, n, shift, pull, kept);
    case Ball::linf:
      return shift_backward_of<T, Ball::linf>(x, g, grad, dx, dg, n, shift, pull, kept);
  }
}

}  // namespace fgunlearn::cpu::FGU_ISA
