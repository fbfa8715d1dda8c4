#include "cuda/spd_perturb.h"

namespace fgunlearn::cuda {

void spd_perturb(const Context&, const SpdBatch&, const SpdRule&, void*, void*) {
  throw std::runtime_error("spd_perturb: not there for CUDA yet");
}

void spd_perturb_backward(const Context&, const SpdBatch&, const SpdRule&, const void*, const void*, void*, void*) {
  throw std::runtime_error("spd_perturb_backward: not there for CUDA yet");
}

}  // namespace fgunlearn::cuda
