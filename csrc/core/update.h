// The optimizers' update rules for one coordinate, host and device.
#pragma once

#include "core/dtype.h"

namespace fgunlearn {

// torch.optim.SGD's hyper-parameters.
struct Sgd {
  double lr = 0.0;
  double momentum = 0.0;
  double dampening = 0.0;
  double weight_decay = 0.0;
  bool nesterov = false;
  bool maximize = false;
};

// The same in the type that a coordinate is updated in: float, or double for f64.
template <typename A>
struct SgdRule {
  explicit FGU_HOST_DEVICE SgdRule(const Sgd& sgd)
      : lr(static_cast<A>(sgd.lr)),
        momentum(static_cast<A>(sgd.momentum)),
        undamped(static_cast<A>(1.0 - sgd.dampening)),
        weight_decay(static_cast<A>(sgd.weight_decay)),
        sign(sgd.maximize ? A(-1) : A(1)),
        nesterov(sgd.nesterov) {}

  // The gradient that the step follows, before momentum. Without weight decay the parameter is not looked at, so that
  // an infinite one gives no NaN.
  FGU_HOST_DEVICE A direction(A param, A grad) const {
    return weight_decay != A(0) ? sign * grad + weight_decay * param : sign * grad;
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
  A sign;
  bool nesterov;
};

}  // namespace fgunlearn
