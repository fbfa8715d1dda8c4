// torch.ops.fgunlearn.{topk_select, topk_select_each, topk_select_packed, randomk_select}
#include "ops/selected.h"
#include "ops/tensors.h"
#include FGU_KERNEL_HEADER(select.h)

namespace fgunlearn::ops {

using torch::headeronly::ScalarType;

namespace {

int64_t total(const std::vector<Segment>& segments) {
  int64_t n = 0;
  for (const Segment& segment : segments) n += segment.numel;
  return n;
}

std::tuple<Tensors, Tensor> topk_select(const Tensors keys, int64_t k, bool exhaustive) {
  const Call op("topk_select", {&keys});
  Tensors copies;
  const auto segments = contiguous_segments_of(op, "keys", keys, copies);
  check_count(op, "k", k, total(segments));
  const auto selected =
      refusing_bad_keys(op, "keys", [&] { return kernels::top_k(op.engine(), segments, k, exhaustive); });
  return {write_indices(op, segments, selected), op.make(selected.thresholds())};
}

std::tuple<Tensors, Tensor> topk_select_each(const Tensors keys, const std::vector<int64_t> k) {
  const Call op("topk_select_each", {&keys});
  check(k.size() == keys.size(), op, ": got ", k.size(), " values of k for ", keys.size(), " tensors");
  Tensors copies;
  const auto segments = contiguous_segments_of(op, "keys", keys, copies);
  for (size_t t = 0; t < segments.size(); ++t) check_count(op, "k", k[t], segments[t].numel);
  const auto selected = refusing_bad_keys(op, "keys", [&] { return kernels::top_k_each(op.engine(), segments, k); });
  return {write_indices(op, segments, selected), op.make(selected.thresholds())};
}

std::tuple<Tensor, Tensor, Tensor> topk_select_packed(const Tensors keys, int64_t k) {
  const Call op("topk_select_packed", {&keys});
  Tensors copies;
  const auto segments = contiguous_segments_of(op, "keys", keys, copies);
  check_count(op, "k", k, total(segments));
  bool wide = false;
  for (const Segment& segment : segments) wide |= segment.numel >= kNarrowIndexLimit;
  Tensor indices = op.empty(k, wide ? ScalarType::Long : ScalarType::Int);
  Tensor offsets = op.empty(static_cast<int64_t>(segments.size()) + 1, ScalarType::Long);
  Tensor threshold = op.empty(1, ScalarType::Double);
  refusing_bad_keys(op, "keys", [&] {
    kernels::top_k_packed(op.engine(), segments, k, wide, indices.data_ptr(), static_cast<int64_t*>(offsets.data_ptr()),
                          static_cast<double*>(threshold.data_ptr()));
    return 0;
  });
  return {indices, offsets, threshold};
}

Tensors randomk_select(const std::vector<int64_t> numels, int64_t k, int64_t seed, const Tensors base) {
  const Call op("randomk_select", {&base});
  std::vector<Segment> segments(numels.size());
  int64_t n = 0;
  for (size_t t = 0; t < numels.size(); ++t) {
    check(numels[t] >= 0, op, ": numels[", t, "] must be >= 0, got ", numels[t]);
    segments[t].numel = numels[t];
    segments[t].offset = n;
    n += numels[t];
  }
  int64_t taken = 0;
  std::vector<IndexList> lists;
  if (!base.empty()) {
    lists = indices_of(op, base, segments);
    for (const IndexList& list : lists) taken += list.count;
  }
  check_count(op, "k", k, n - taken);
  // Empty lists only say on which device to draw.
  const auto selected =
      kernels::random_k(op.engine(), segments, k, static_cast<uint64_t>(seed), taken == 0 ? nullptr : &lists);
  return write_indices(op, segments, selected);
}

}  // namespace

FGU_SCHEMAS(m) {
  m.def("topk_select(Tensor[] keys, int k, bool exhaustive=False) -> (Tensor[], Tensor)");
  m.def("topk_select_each(Tensor[] keys, int[] k) -> (Tensor[], Tensor)");
  m.def("topk_select_packed(Tensor[] keys, int k) -> (Tensor, Tensor, Tensor)");
  m.def("randomk_select(int[] numels, int k, int seed, Tensor[] base) -> Tensor[]");
}

FGU_KERNELS(m) {
  m.impl("randomk_select", TORCH_BOX(&randomk_select));
  m.impl("topk_select", TORCH_BOX(&topk_select));
  m.impl("topk_select_each", TORCH_BOX(&topk_select_each));
  m.impl("topk_select_packed", TORCH_BOX(&topk_select_packed));
}

}  // namespace fgunlearn::ops
