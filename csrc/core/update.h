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

// The new parameter; `buffer` is this coordinate's momentum, nullptr without momentum. `first`: the tensor's first step,
// which sets the buffer to the gradient. In A (float, or double for f64), in the order of torch's operations.
template <typename A>
FGU_HOST_DEVICE A sgd_step(const Sgd& rule, A param, A grad, A* buffer, bool first) {
  A step = rule.maximize ? -grad : grad;
  if (rule.weight_decay != 0.0) step += static_cast<A>(rule.weight_decay) * param;
  if (buffer != nullptr) {
    const A momentum = static_cast<A>(rule.momentum);
    *buffer = first ? step : momentum * *buffer + static_cast<A>(1.0 - rule.dampening) * step;
    step = rule.nesterov ? step + momentum * *buffer : *buffer;
  }
  return param - static_cast<A>(rule.lr) * step;
}

}  // namespace fgunlearn
