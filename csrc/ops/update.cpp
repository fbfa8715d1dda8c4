// torch.ops.fgunlearn.sparse_sgd_
#include <cmath>

#include "ops/tensors.h"
#include FGU_KERNEL_HEADER(update.h)

namespace fgunlearn::ops {

namespace {

void sparse_sgd_(const Tensors param, const Tensors grad, const Tensors indices, const Tensors momentum_buffer,
                 const std::vector<int64_t> first, double lr, double momentum, double dampening, double weight_decay,
                 bool nesterov, bool maximize) {
  const Call op("sparse_sgd_", {&param, &indices});
  const Sgd sgd{lr, momentum, dampening, weight_decay, nesterov, maximize};
  check(std::isfinite(lr) && std::isfinite(momentum) && std::isfinite(dampening) && std::isfinite(weight_decay), op,
        ": lr, momentum, dampening and weight_decay must be finite, got ", lr, ", ", momentum, ", ", dampening, ", ",
        weight_decay);
  check_same_length(op, "param", param.size(), "grad", grad.size());
  check_same_length(op, "param", param.size(), "first", first.size());
  const auto params = writable_segments_of(op, "param", param);
  const auto grads = segments_of(op, "grad", grad);
  const auto lists = indices_of(op, indices, params);
  if (momentum != 0.0) check_same_length(op, "param", param.size(), "momentum_buffer", momentum_buffer.size());
  check(momentum != 0.0 || momentum_buffer.empty(), op, ": momentum_buffer must be empty when momentum is 0");
  const auto buffers = segments_of(op, "momentum_buffer", momentum_buffer);
  for (size_t t = 0; t < param.size(); ++t) {
    check_same_shape(op, "param", param[t], "grad", grad[t], t);
    check(params[t].dtype == grads[t].dtype, op, ": grad[", t, "] must have the dtype of param[", t, "]");
    if (buffers.empty()) continue;
    const DType wanted = params[t].dtype == DType::f64 ? DType::f64 : DType::f32;
    check(buffers[t].dtype == wanted && momentum_buffer[t].is_contiguous(), op, ": momentum_buffer[", t,
          "] must be contiguous ", wanted == DType::f64 ? "float64" : "float32");
    check(buffers[t].numel == lists[t].count, op, ": momentum_buffer[", t, "] has ", buffers[t].numel, " elements for ",
          lists[t].count, " indices");
  }
  kernels::sgd(op.engine(), params, grads, lists, buffers, first, sgd);
}

}  // namespace

FGU_SCHEMAS(m) {
  m.def(
      "sparse_sgd_(Tensor(a!)[] param, Tensor[] grad, Tensor[] indices, Tensor(b!)[] momentum_buffer, int[] first, "
      "float lr, float momentum, float dampening, float weight_decay, bool nesterov, bool maximize) -> ()");
}

FGU_KERNELS(m) { m.impl("sparse_sgd_", TORCH_BOX(&sparse_sgd_)); }

}  // namespace fgunlearn::ops
