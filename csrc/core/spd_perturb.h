// The shift of SPD-GAN, host and device: x~ = clamp(x + scale * eps * tanh(g), low, high), and its derivative.
//
// tanh is made of fused multiply-adds, all of them written as such, and one division instead of a library's: every
// instruction set and device then rounds alike, and the compiler can work on many lanes at once. There is no branch.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/dtype.h"

namespace fgunlearn {

// The ball that delta = eps * tanh(g) is scaled into, sample by sample.
enum class Ball : int32_t { none, l2, linf };

// The bits of a float or double, as signed integers: those of magnitudes order them, with NaN above infinity.
template <typename A>
struct Pattern;
template <>
struct Pattern<float> {
  using type = int32_t;
  static constexpr type magnitude = 0x7fffffff;
  static constexpr type nan = 0x7fc00000;
};
template <>
struct Pattern<double> {
  using type = int64_t;
  static constexpr type magnitude = 0x7fffffffffffffffll;
  static constexpr type nan = 0x7ff8000000000000ll;
};

template <typename A>
FGU_HOST_DEVICE typename Pattern<A>::type magnitude_bits(A x) {
  return bits::cast<typename Pattern<A>::type>(x) & Pattern<A>::magnitude;
}

template <typename A>
FGU_HOST_DEVICE A with_sign_of(A magnitude, A sign) {
  using P = Pattern<A>;
  return bits::cast<A>(magnitude_bits(magnitude) | (bits::cast<typename P::type>(sign) & ~P::magnitude));
}

// Every NaN as the same one: which of its operands' NaN an operation hands on differs between processors.
template <typename A>
FGU_HOST_DEVICE A one_nan(A x) {
  return x == x ? x : bits::cast<A>(Pattern<A>::nan);
}

// a * b + c, rounded once: an instruction everywhere but on processors that have only the scalar kernels.
FGU_HOST_DEVICE float fused(float a, float b, float c) { return fmaf(a, b, c); }
FGU_HOST_DEVICE double fused(double a, double b, double c) { return fma(a, b, c); }

// tanh a = e / (e + 1) with e = expm1(2a) / 2, for a = |x|. With a = k ln(2) / 2 + h, |h| <= ln(2) / 4, e is
// 2^k s + (2^k - 1) / 2, and s = expm1(2h) / 2 = h + h^2 q(h) with q a minimax fit, in relative error, of degree 4
// (2^-26.1). Nothing cancels, so small x keep their relative accuracy. At most 2.57 ulp off over all floats, exactly
// odd, exactly +-1 from |x| = 9.02 on and at infinity; zeros and subnormals are their own tanh; NaN stays NaN.
FGU_HOST_DEVICE float hyperbolic_tangent(float x) {
  const float magnitude = bits::cast<float>(magnitude_bits(x));
  const float a = magnitude > 10.0f ? 10.0f : magnitude;  // so written, NaN is not taken for something large
  constexpr float shifter = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the lowest bits
  const float turned = fused(a, 2.88539008f, shifter);
  const float k = turned - shifter;
  const float h = fused(k, -0.34657359f, a);  // what the rounded constant errs by, k times, tanh flattens faster
  float q = 0x1.6b9c6ep-5f;
  q = fused(q, h, 0x1.122546p-3f);
  q = fused(q, h, 0x1.5556f2p-2f);
  q = fused(q, h, 0x1.5554b4p-1f);
  q = fused(q, h, 0x1.fffffep-1f);
  const float s = fused(h * h, q, h);
  const float power = bits::cast<float>((bits::cast<uint32_t>(turned) << 23) + 0x3f800000u);  // 2^k
  const float e = fused(power, s, fused(power, 0.5f, -0.5f));
  return with_sign_of(e / (e + 1.0f), x);
}

// The same with the Taylor series of expm1(2h) / 2 to h^13, which errs by less than 2^-56 of it: up to 2.6 ulp off in
// 4e7 random numbers.
FGU_HOST_DEVICE double hyperbolic_tangent(double x) {
  const double magnitude = bits::cast<double>(magnitude_bits(x));
  const double a = magnitude > 20.0 ? 20.0 : magnitude;
  constexpr double shifter = 6755399441055744.0;  // 1.5 * 2^52
  const double turned = fused(a, 2.8853900817779268, shifter);
  const double k = turned - shifter;
  const double h = fused(k, -0.34657359027997264, a);
  double q = 4096.0 / 6227020800.0;  // 2^(n - 1) / n!
  q = fused(q, h, 2048.0 / 479001600.0);
  q = fused(q, h, 1024.0 / 39916800.0);
  q = fused(q, h, 512.0 / 3628800.0);
  q = fused(q, h, 256.0 / 362880.0);
  q = fused(q, h, 128.0 / 40320.0);
  q = fused(q, h, 64.0 / 5040.0);
  q = fused(q, h, 32.0 / 720.0);
  q = fused(q, h, 16.0 / 120.0);
  q = fused(q, h, 8.0 / 24.0);
  q = fused(q, h, 4.0 / 6.0);
  q = fused(q, h, 1.0);
  const double s = fused(h * h, q, h);
  const double power = bits::cast<double>((bits::cast<uint64_t>(turned) << 52) + 0x3ff0000000000000ull);
  const double e = fused(power, s, fused(power, 0.5, -0.5));
  return with_sign_of(e / (e + 1.0), x);
}

// How one sample is shifted.
template <typename A>
struct Shift {
  A eps;
  A scale;  // of delta: 1 without a ball, and inside it
  A low;
  A high;

  template <typename B>
  FGU_HOST_DEVICE Shift<B> as() const {
    return {static_cast<B>(eps), static_cast<B>(scale), static_cast<B>(low), static_cast<B>(high)};
  }

  // delta, for t = tanh(g). Inside the ball the product with 1 changes nothing.
  FGU_HOST_DEVICE A delta(A t) const { return (eps * t) * scale; }

  FGU_HOST_DEVICE A apply(A x, A t) const {
    A moved = x + delta(t);
    moved = moved < low ? low : moved;
    moved = moved > high ? high : moved;
    return one_nan(moved);
  }

  // The gradient that the clamp lets through: both limits are inside, as torch.clamp has it.
  FGU_HOST_DEVICE A passed(A x, A t, A grad) const {
    const A moved = x + delta(t);
    const A kept = moved <= high ? grad : A(0);
    return one_nan(moved >= low ? kept : A(0));
  }
};

// What the ball takes from a sample's gradient. With u what the clamp lets through, d delta_i = scale * (u_i - pull_i):
//   l2    pull_i = t_i * <t, u> / <t, t>
//   linf  pull_i = sign(t_i) * <t, u> * eps / (norm * ties) where |eps * t_i| is the norm, as it is for `ties` of the
//         sample's elements; 0 elsewhere
// Without a ball, and inside it, nothing.
template <typename A>
struct Pull {
  A amount = A(0);  // what stands beside t_i, or beside sign(t_i)
  A norm = A(0);

  template <typename B>
  FGU_HOST_DEVICE Pull<B> as() const {
    return {static_cast<B>(amount), static_cast<B>(norm)};
  }

  FGU_HOST_DEVICE bool is_largest(A eps, A t) const { return magnitude_bits(eps * t) == magnitude_bits(norm); }

  template <Ball kBall>
  FGU_HOST_DEVICE A at(A eps, A t) const {
    if constexpr (kBall == Ball::none) return A(0);
    if constexpr (kBall == Ball::l2) return t * amount;
    return is_largest(eps, t) ? with_sign_of(A(1), t) * amount : A(0);
  }
};

// dg: tanh' = 1 - t^2 as (1 - t)(1 + t), which keeps its relative accuracy where t is near 1.
template <typename A>
FGU_HOST_DEVICE A gradient_of(const Shift<A>& shift, A t, A u, A pull) {
  return one_nan((shift.eps * ((A(1) - t) * (A(1) + t))) * (shift.scale * (u - pull)));
}

// A batch of contiguous samples, one after the other; x and g alike.
struct SpdBatch {
  DType dtype;
  int64_t samples;
  int64_t size;  // elements of one sample
  const void* x;
  const void* g;
};

// One call's rule: finite, eps > 0, radius > 0, low < high.
struct SpdRule {
  Ball ball;
  double eps;
  const void* eps_each;  // one per sample, instead of eps; or null
  DType eps_dtype;       // of eps_each
  double radius;
  double low;
  double high;

  // As the type that the batch is computed in holds it.
  template <typename A>
  FGU_HOST_DEVICE A eps_of(int64_t sample) const {
    if (eps_each == nullptr) return static_cast<A>(eps);
    switch (eps_dtype) {
      case DType::f64:
        return static_cast<A>(static_cast<const double*>(eps_each)[sample]);
      case DType::f16:
        return static_cast<A>(to_f32(static_cast<const f16_t*>(eps_each)[sample]));
      case DType::bf16:
        return static_cast<A>(to_f32(static_cast<const bf16_t*>(eps_each)[sample]));
      case DType::f32:
        break;
    }
    return static_cast<A>(static_cast<const float*>(eps_each)[sample]);
  }

  // On the sphere, too, delta is not scaled. A NaN is not inside.
  template <typename A>
  FGU_HOST_DEVICE bool is_inside(A norm) const {
    return ball == Ball::none || norm <= static_cast<A>(radius);
  }

  // delta is multiplied by min(1, radius / norm), or by NaN where the norm is NaN.
  template <typename A>
  FGU_HOST_DEVICE Shift<A> shift_of(int64_t sample, A norm) const {
    const A scale = is_inside(norm) ? A(1) : static_cast<A>(radius) / norm;
    return {eps_of<A>(sample), scale, static_cast<A>(low), static_cast<A>(high)};
  }

  // Of a sample outside the ball: `product` is <t, u> over it.
  template <typename A>
  FGU_HOST_DEVICE Pull<A> pull_of(A sample_eps, A norm, double product, int64_t ties) const {
    const double over = static_cast<double>(sample_eps) / static_cast<double>(norm);  // l2: its square is 1 / <t, t>
    const double amount = ball == Ball::l2 ? product * over * over : product * over / static_cast<double>(ties);
    return {static_cast<A>(amount), norm};
  }

  // Where nothing differs between samples, they are one: parts of equal size, however small the samples.
  SpdBatch merged(const SpdBatch& batch) const {
    if (ball != Ball::none || eps_each != nullptr) return batch;
    return {batch.dtype, 1, batch.samples * batch.size, batch.x, batch.g};
  }
};

}  // namespace fgunlearn
