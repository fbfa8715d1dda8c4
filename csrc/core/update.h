// The optimizers' update rules for one coordinate, host and device. Sums and products round one by one, in the order
// that torch writes them in, so that CPU, CUDA and the plain-PyTorch specification agree bit for bit.
#pragma once

#include <cmath>

#include "core/dtype.h"
#include "core/philox.h"

namespace fgunlearn {

// A number that the host knows, or (data not null) that lies in the memory of the device, as float or double: a step
// count or learning rate there changes without the host, as a captured CUDA graph needs it.
struct Number {
  double value = 0.0;
  const void* data = nullptr;
  bool wide = false;

  FGU_HOST_DEVICE double operator()() const {
    if (data == nullptr) return value;
    return wide ? *static_cast<const double*>(data) : static_cast<double>(*static_cast<const float*>(data));
  }
};

// What one call of an optimizer step is told beside its rule's hyper-parameters; for all tensors alike.
struct StepOptions {
  Number lr;
  Number grad_scale{1.0};   // gradients come multiplied by it (GradScaler)
  Number found_inf;         // not 0: nothing moves
  bool gathered = false;    // grads hold one value per index instead of one per element
  bool stochastic = false;  // bf16 parameters round up or down at random, by how near they are
  uint64_t seed = 0;        // of that
};

// Which half of a 32-bit pattern's low bits rounds up is decided by `noise`, uniform on [0, 2^16): x moves up with a
// probability of exactly the distance to the value below over the distance between the two, so that the mean is x.
// A carry out of the largest finite value gives infinity; infinity and NaN stay.
FGU_HOST_DEVICE bf16_t to_bf16_at_random(float x, uint32_t noise) {
  const uint32_t u = bits::cast<uint32_t>(x);
  if ((u & 0x7fffffffu) >= 0x7f800000u) return to_bf16(x);
  return bf16_t{static_cast<uint16_t>((u + (noise & 0xffffu)) >> 16)};
}

// The noise of a coordinate's `step`-th rounding.
FGU_HOST_DEVICE uint32_t rounding_noise(uint64_t seed, double step, int64_t global_index) {
  return philox4x32(seed, Stream::rounding, static_cast<uint64_t>(global_index), static_cast<uint32_t>(step)).word[0] &
         0xffffu;
}

// torch.optim.SGD's hyper-parameters.
struct Sgd {
  double momentum = 0.0;
  double dampening = 0.0;
  double weight_decay = 0.0;
  bool nesterov = false;
  bool maximize = false;
};

// The same in the type that a coordinate is updated in: float, or double for f64.
template <typename A>
struct SgdRule {
  FGU_HOST_DEVICE SgdRule(const Sgd& sgd, const StepOptions& options)
      : lr(static_cast<A>(options.lr())),
        momentum(static_cast<A>(sgd.momentum)),
        undamped(static_cast<A>(1.0 - sgd.dampening)),
        weight_decay(static_cast<A>(sgd.weight_decay)),
        factor(static_cast<A>((sgd.maximize ? -1.0 : 1.0) / options.grad_scale())),
        nesterov(sgd.nesterov) {}

  // The gradient that the step follows, before momentum. Without weight decay the parameter is not looked at, so that
  // an infinite one gives no NaN.
  FGU_HOST_DEVICE A direction(A param, A grad) const {
    return weight_decay != A(0) ? factor * grad + weight_decay * param : factor * grad;
  }

  // The new parameter, by a plain step.
  FGU_HOST_DEVICE A plain(A param, A grad) const { return param - lr * direction(param, grad); }

  // The new parameter, updating the coordinate's momentum. `first`: the tensor's first step sets it to the direction.
  FGU_HOST_DEVICE A with_momentum(A param, A grad, A& buffer, bool first) const {
    const A step = direction(param, grad);
    buffer = first ? step : momentum * buffer + undamped * step;
    return param - lr * (nesterov ? step + momentum * buffer : buffer);
  }

  A lr;
  A momentum;
  A undamped;  // 1 - dampening
  A weight_decay;
  A factor;  // on gradients: the sign, and what takes the scale off
  bool nesterov;
};

// torch.optim.Adam's and AdamW's hyper-parameters.
struct Adam {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double weight_decay = 0.0;
  double eps = 1e-8;
  bool decoupled = false;  // AdamW: the decay multiplies the parameter instead of adding to its gradient
  bool amsgrad = false;
  bool maximize = false;
};

// base^n by squaring: only multiplications, so that host and device get the same bits, which their pow() do not.
FGU_HOST_DEVICE double whole_power(double base, double n) {
  double product = 1.0;
  for (uint64_t rest = n > 0.0 ? static_cast<uint64_t>(n) : 0; rest != 0; rest >>= 1) {
    if ((rest & 1) != 0) product *= base;
    base *= base;
  }
  return product;
}

// The same for one step of one tensor, in the type that its coordinates are updated in.
template <typename A>
struct AdamRule {
  AdamRule() = default;

  // `step` counts from 1.
  FGU_HOST_DEVICE AdamRule(const Adam& adam, const StepOptions& options, double step)
      : step_size(static_cast<A>(options.lr() / (1.0 - whole_power(adam.beta1, step)))),
        correction(static_cast<A>(std::sqrt(1.0 - whole_power(adam.beta2, step)))),
        eps(static_cast<A>(adam.eps)),
        weight1(static_cast<A>(1.0 - adam.beta1)),
        beta2(static_cast<A>(adam.beta2)),
        weight2(static_cast<A>(1.0 - adam.beta2)),
        kept(static_cast<A>(adam.decoupled ? 1.0 - options.lr() * adam.weight_decay : 1.0)),
        weight_decay(static_cast<A>(adam.decoupled ? 0.0 : adam.weight_decay)),
        factor(static_cast<A>((adam.maximize ? -1.0 : 1.0) / options.grad_scale())) {}

  // The new parameter, updating the coordinate's moments; `largest` is read and written with kAmsgrad only.
  template <bool kAmsgrad>
  FGU_HOST_DEVICE A moved(A param, A grad, A& first, A& second, A* largest) const {
    A step = factor * grad;
    if (weight_decay != A(0)) step = step + weight_decay * param;
    // As torch's lerp: from the end that is nearer, so that a weight of 1 gives the gradient exactly.
    first = weight1 < A(0.5) ? first + weight1 * (step - first) : step - (step - first) * (A(1) - weight1);
    second = beta2 * second + weight2 * step * step;
    A spread = second;
    if constexpr (kAmsgrad) {
      // As torch.maximum: NaN from either side stays.
      *largest = *largest >= second || *largest != *largest ? *largest : second;
      spread = *largest;
    }
    return kept * param - step_size * first / (std::sqrt(spread) / correction + eps);
  }

  A step_size;   // lr over the first moment's bias correction
  A correction;  // root of the second moment's
  A eps;
  A weight1;  // 1 - beta1
  A beta2;
  A weight2;       // 1 - beta2
  A kept;          // what decoupled weight decay leaves of the parameter
  A weight_decay;  // the other kind
  A factor;        // on gradients: the sign, and what takes the scale off
};

}  // namespace fgunlearn
