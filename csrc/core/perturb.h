// The perturbations' arithmetic, host and device: theta_i <- keep * theta_i + shift + scale * draw_i.
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

// N(0, 1) by Box and Muller in double precision: u1 = (w0 + 1) / 2^32 in (0, 1], u2 = w1 / 2^32 in [0, 1). At most
// sqrt(64 ln 2) = 6.7 in magnitude. Uniform: w0 / 2^32 in [0, 1).
FGU_HOST_DEVICE double draw_at(Draw draw, uint64_t seed, Stream stream, int64_t global_index) {
  if (draw == Draw::none) return 0.0;
  const Philox4 bits = philox4x32(seed, stream, static_cast<uint64_t>(global_index));
  constexpr double step = 1.0 / 4294967296.0;
  if (draw == Draw::uniform) return static_cast<double>(bits.word[0]) * step;
  const double u1 = (static_cast<double>(bits.word[0]) + 1.0) * step;
  const double u2 = static_cast<double>(bits.word[1]) * step;
  return std::sqrt(-2.0 * std::log(u1)) * std::cos(6.283185307179586 * u2);
}

// keep == 0 does not look at theta: a NaN or infinity there does not survive a redraw.
FGU_HOST_DEVICE double perturbed(const Perturbation& how, double theta, double draw) {
  const double base = how.keep == 0.0 ? how.shift : how.keep * theta + how.shift;
  return how.draw == Draw::none ? base : base + how.scale * draw;
}

}  // namespace fgunlearn
