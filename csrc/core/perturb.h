// The perturbations' arithmetic, host and device: theta_i <- keep * theta_i + shift + scale * draw_i.
//
// Normals are made by polynomials instead of a library's log and cos: every instruction set and device then rounds
// alike, and the compiler can work on many lanes at once.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/philox.h"

namespace fgunlearn {

enum class Draw : int32_t { none, normal, uniform };

// One tensor's perturbation. Gaussian noise keeps 1; redrawing and zeroing keep 0.
struct Perturbation {
  Draw draw = Draw::none;
  double keep = 1.0;
  double shift = 0.0;
  double scale = 0.0;
};

// ln((word + 1) / 2^32), for u in (0, 1]. With word + 1 = m 2^e, m in [sqrt(1/2), sqrt(2)): ln m = 2 artanh(f),
// f = (m - 1) / (m + 1), |f| < 0.172; the series to f^17 errs by less than 2^-48 of the result, also where u is near 1.
FGU_HOST_DEVICE double log_uniform(uint32_t word) {
  const uint64_t pattern = bits::cast<uint64_t>(static_cast<double>(word) + 1.0);
  // Subtracting the pattern of sqrt(1/2) splits exponent from mantissa so that m comes out in [sqrt(1/2), sqrt(2)).
  constexpr uint64_t sqrt_half = 0x3fe6a09e667f3bcdull;
  const int32_t exponent = static_cast<int32_t>(static_cast<uint32_t>((pattern - sqrt_half) >> 52));
  const double m = bits::cast<double>(pattern - (static_cast<uint64_t>(static_cast<uint32_t>(exponent)) << 52));
  const double f = (m - 1.0) / (m + 1.0);
  const double g = f * f;
  double series = 1.0 / 17.0;
  series = series * g + 1.0 / 15.0;
  series = series * g + 1.0 / 13.0;
  series = series * g + 1.0 / 11.0;
  series = series * g + 1.0 / 9.0;
  series = series * g + 1.0 / 7.0;
  series = series * g + 1.0 / 5.0;
  series = series * g + 1.0 / 3.0;
  series = series * g + 1.0;
  return static_cast<double>(exponent - 32) * 0.6931471805599453 + 2.0 * f * series;
}

// cos(2 pi word / 2^32): the nearest quarter turn is taken off exactly, in integers, and Taylor series of sine and
// cosine on [-pi/4, pi/4], to x^17 and x^16, err by less than 2^-50.
FGU_HOST_DEVICE double cos_turn(uint32_t word) {
  const uint32_t quarter = (word + 0x20000000u) >> 30;
  const int32_t rest = static_cast<int32_t>(word - (quarter << 30));
  const double x = static_cast<double>(rest) * (6.283185307179586 / 4294967296.0);
  const double s = x * x;
  double sine = 1.0 / 355687428096000.0;
  sine = sine * s - 1.0 / 1307674368000.0;
  sine = sine * s + 1.0 / 6227020800.0;
  sine = sine * s - 1.0 / 39916800.0;
  sine = sine * s + 1.0 / 362880.0;
  sine = sine * s - 1.0 / 5040.0;
  sine = sine * s + 1.0 / 120.0;
  sine = sine * s - 1.0 / 6.0;
  sine = x + x * s * sine;
  double cosine = 1.0 / 20922789888000.0;
  cosine = cosine * s - 1.0 / 87178291200.0;
  cosine = cosine * s + 1.0 / 479001600.0;
  cosine = cosine * s - 1.0 / 3628800.0;
  cosine = cosine * s + 1.0 / 40320.0;
  cosine = cosine * s - 1.0 / 720.0;
  cosine = cosine * s + 1.0 / 24.0;
  cosine = cosine * s - 0.5;
  cosine = 1.0 + s * cosine;
  // cos(q pi/2 + x) for q = 0, 1, 2, 3: cos x, -sin x, -cos x, sin x.
  const double turned = (quarter & 1u) != 0 ? sine : cosine;
  return ((quarter + 1u) & 2u) != 0 ? -turned : turned;
}

// A normal is sqrt(-2 log_uniform(word 0)) * cos_turn(word 1), by Box and Muller: at most sqrt(64 ln 2) = 6.7.

// Uniform on [0, 1), exactly word / 2^32.
FGU_HOST_DEVICE double uniform_of(uint32_t word) { return static_cast<double>(word) * (1.0 / 4294967296.0); }

// keep == 0 does not look at theta: a NaN or infinity there does not survive a redraw.
FGU_HOST_DEVICE double perturbed(const Perturbation& how, double theta, double draw) {
  const double base = how.keep == 0.0 ? how.shift : how.keep * theta + how.shift;
  return how.draw == Draw::none ? base : base + how.scale * draw;
}

}  // namespace fgunlearn
