// torch.ops.fgunlearn.{sparse_add, sparse_take}
#include "ops/tensors.h"
#include FGU_KERNEL_HEADER(gather.h)
#include FGU_KERNEL_HEADER(sparse_add.h)

namespace fgunlearn::ops {

namespace {

Tensor sparse_add(const Tensor theta, const Tensor index, const Tensor delta) {
  const Tensors thetas{theta};
  const Tensors indices{index};
  const Call op("sparse_add", {&thetas, &indices});
  Tensors copies;
  const auto deltas = contiguous_segments_of(op, "delta", {delta}, copies);
  const auto before = segments_of(op, "theta", thetas);
  const auto lists = indices_of(op, indices, before);
  check(deltas[0].numel == lists[0].count && delta.dim() == 1, op, ": delta must be 1-D with ", lists[0].count,
        " elements, one per index; it has ", deltas[0].numel);
  check(deltas[0].dtype == before[0].dtype || deltas[0].dtype == DType::f32, op,
        ": delta must have theta's dtype or be float32");
  Tensor out = torch::stable::empty(theta.sizes(), theta.scalar_type(), std::nullopt, theta.device());
  torch::stable::copy_(out, theta);
  kernels::sparse_add(op.engine(), segments_of(op, "out", {out})[0], lists[0], deltas[0]);
  return out;
}

Tensor sparse_take(const Tensor theta, const Tensor index) {
  const Tensors thetas{theta};
  const Tensors indices{index};
  const Call op("sparse_take", {&thetas, &indices});
  const auto from = segments_of(op, "theta", thetas);
  const auto lists = indices_of(op, indices, from);
  Tensor values = op.empty(lists[0].count, theta.scalar_type());
  kernels::gather(op.engine(), from, lists, segments_of(op, "values", {values}));
  return values;
}

}  // namespace

FGU_SCHEMAS(m) {
  m.def("sparse_add(Tensor theta, Tensor index, Tensor delta) -> Tensor");
  m.def("sparse_take(Tensor theta, Tensor index) -> Tensor");
}

FGU_KERNELS(m) {
  m.impl("sparse_add", TORCH_BOX(&sparse_add));
  m.impl("sparse_take", TORCH_BOX(&sparse_take));
}

}  // namespace fgunlearn::ops
