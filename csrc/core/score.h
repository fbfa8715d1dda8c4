// What one batch's gradient adds to the running score.
#pragma once

#include <cstdint>

namespace fgunlearn {

enum class ScoreKind : int32_t {
  grad,      // w * g
  abs_grad,  // w * |g|
  fisher,    // w * g^2
};

}  // namespace fgunlearn
