// torch.ops.fgunlearn.{sparse_gather, sparse_scatter_}
#include "ops/tensors.h"
#include FGU_KERNEL_HEADER(gather.h)

namespace fgunlearn::ops {

namespace {

Tensors sparse_gather(const Tensors tensors, const Tensors indices) {
  const Call op("sparse_gather", {&tensors, &indices});
  const auto segments = segments_of(op, "tensors", tensors);
  const auto lists = indices_of(op, indices, segments);
  Tensors values;
  values.reserve(tensors.size());
  for (size_t t = 0; t < tensors.size(); ++t) {
    values.push_back(op.empty(lists[t].count, tensors[t].scalar_type()));
  }
  kernels::gather(op.engine(), segments, lists, segments_of(op, "values", values));
  return values;
}

void sparse_scatter_(const Tensors tensors, const Tensors indices, const Tensors values) {
  const Call op("sparse_scatter_", {&tensors, &indices});
  check_same_length(op, "tensors", tensors.size(), "values", values.size());
  const auto segments = writable_segments_of(op, "tensors", tensors);
  const auto lists = indices_of(op, indices, segments);
  Tensors copies;
  const auto sources = contiguous_segments_of(op, "values", values, copies);
  for (size_t t = 0; t < sources.size(); ++t) {
    check(sources[t].dtype == segments[t].dtype, op, ": values[", t, "] must have the dtype of tensors[", t, "]");
    check(sources[t].numel == lists[t].count, op, ": values[", t, "] has ", sources[t].numel, " elements for ",
          lists[t].count, " indices");
  }
  kernels::scatter(op.engine(), segments, lists, sources);
}

}  // namespace

FGU_SCHEMAS(m) {
  m.def("sparse_gather(Tensor[] tensors, Tensor[] indices) -> Tensor[]");
  m.def("sparse_scatter_(Tensor(a!)[] tensors, Tensor[] indices, Tensor[] values) -> ()");
}

FGU_KERNELS(m) {
  m.impl("sparse_gather", TORCH_BOX(&sparse_gather));
  m.impl("sparse_scatter_", TORCH_BOX(&sparse_scatter_));
}

}  // namespace fgunlearn::ops
