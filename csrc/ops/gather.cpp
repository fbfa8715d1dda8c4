// torch.ops.fgunlearn.{sparse_gather, sparse_scatter_}
#include "cpu/gather.h"

#include "ops/tensors.h"

namespace fgunlearn::ops {

namespace {

Tensors sparse_gather(const Tensors tensors, const Tensors indices) {
  const char* op = "sparse_gather";
  const auto segments = segments_of(op, "tensors", tensors);
  const auto lists = indices_of(op, indices, segments);
  Tensors values;
  values.reserve(tensors.size());
  for (size_t t = 0; t < tensors.size(); ++t) {
    values.push_back(empty_cpu(lists[t].count, tensors[t].scalar_type()));
  }
  cpu::gather(torch_executor(), segments, lists, segments_of(op, "values", values));
  return values;
}

void sparse_scatter_(const Tensors tensors, const Tensors indices, const Tensors values) {
  const char* op = "sparse_scatter_";
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
  cpu::scatter(torch_executor(), segments, lists, sources);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fgunlearn, m) {
  m.def("sparse_gather(Tensor[] tensors, Tensor[] indices) -> Tensor[]");
  m.def("sparse_scatter_(Tensor(a!)[] tensors, Tensor[] indices, Tensor[] values) -> ()");
}

FGU_CPU_KERNELS(m) {
  m.impl("sparse_gather", TORCH_BOX(&sparse_gather));
  m.impl("sparse_scatter_", TORCH_BOX(&sparse_scatter_));
}

}  // namespace fgunlearn::ops
