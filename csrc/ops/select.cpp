// torch.ops.fgunlearn.{topk_select, topk_select_each, randomk_select}
#include "cpu/select.h"

#include "ops/tensors.h"

namespace fgunlearn::ops {

using torch::headeronly::ScalarType;

namespace {

Tensors indices_from(const Executor& executor, const cpu::SelectionMask& mask, const std::vector<Segment>& segments) {
  Tensors indices;
  indices.reserve(segments.size());
  for (size_t t = 0; t < segments.size(); ++t) {
    const bool wide = segments[t].numel >= kNarrowIndexLimit;
    Tensor index = empty_cpu(mask.segment_count(static_cast<int64_t>(t)), wide ? ScalarType::Long : ScalarType::Int);
    mask.compact(executor, static_cast<int64_t>(t), wide, index.data_ptr());
    indices.push_back(index);
  }
  return indices;
}

int64_t total(const std::vector<Segment>& segments) {
  int64_t n = 0;
  for (const Segment& segment : segments) n += segment.numel;
  return n;
}

cpu::TopK top_k(const char* op, const Executor& executor, const std::vector<Segment>& segments, int64_t k,
                bool exhaustive, int64_t first) {
  const int64_t n = total(segments);
  check(k >= 0 && k <= n, op, ": k must be in [0, ", n, "], got ", k);
  try {
    return cpu::top_k(executor, segments, k, exhaustive);
  } catch (const cpu::NotANumber& nan) {
    fail(op, ": keys[", first + nan.segment, "] holds ", nan.count, " NaN");
  }
}

std::tuple<Tensors, Tensor> topk_select(const Tensors keys, int64_t k, bool exhaustive) {
  const char* op = "topk_select";
  Tensors copies;
  const auto segments = contiguous_segments_of(op, "keys", keys, copies);
  const Executor executor = torch_executor();
  const cpu::TopK top = top_k(op, executor, segments, k, exhaustive, 0);
  Tensor threshold = empty_cpu(1, ScalarType::Double);
  *static_cast<double*>(threshold.data_ptr()) = top.threshold;
  return {indices_from(executor, top.mask, segments), threshold};
}

std::tuple<Tensors, Tensor> topk_select_each(const Tensors keys, const std::vector<int64_t> k) {
  const char* op = "topk_select_each";
  check(k.size() == keys.size(), op, ": got ", k.size(), " values of k for ", keys.size(), " tensors");
  Tensors copies;
  const auto segments = contiguous_segments_of(op, "keys", keys, copies);
  const Executor executor = torch_executor();
  Tensors indices;
  Tensor threshold = empty_cpu(static_cast<int64_t>(keys.size()), ScalarType::Double);
  for (size_t t = 0; t < segments.size(); ++t) {
    std::vector<Segment> one{segments[t]};
    one[0].offset = 0;
    const cpu::TopK top = top_k(op, executor, one, k[t], false, static_cast<int64_t>(t));
    indices.push_back(indices_from(executor, top.mask, one)[0]);
    static_cast<double*>(threshold.data_ptr())[t] = top.threshold;
  }
  return {indices, threshold};
}

Tensors randomk_select(const std::vector<int64_t> numels, int64_t k, int64_t seed, const Tensors base) {
  const char* op = "randomk_select";
  std::vector<Segment> segments(numels.size());
  int64_t n = 0;
  for (size_t t = 0; t < numels.size(); ++t) {
    check(numels[t] >= 0, op, ": numels[", t, "] must be >= 0, got ", numels[t]);
    segments[t].numel = numels[t];
    segments[t].offset = n;
    n += numels[t];
  }
  int64_t free = n;
  std::vector<IndexList> lists;
  if (!base.empty()) {
    lists = indices_of(op, base, segments);
    for (const IndexList& list : lists) free -= list.count;
  }
  check(k >= 0 && k <= free, op, ": k must be in [0, ", free, "], got ", k);
  const Executor executor = torch_executor();
  const auto mask = cpu::random_k(executor, segments, k, static_cast<uint64_t>(seed), lists.empty() ? nullptr : &lists);
  return indices_from(executor, mask, segments);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(fgunlearn, m) {
  m.def("topk_select(Tensor[] keys, int k, bool exhaustive=False) -> (Tensor[], Tensor)");
  m.def("topk_select_each(Tensor[] keys, int[] k) -> (Tensor[], Tensor)");
  m.def("randomk_select(int[] numels, int k, int seed, Tensor[] base) -> Tensor[]");
}

FGU_CPU_KERNELS(m) {
  m.impl("randomk_select", TORCH_BOX(&randomk_select));
  m.impl("topk_select", TORCH_BOX(&topk_select));
  m.impl("topk_select_each", TORCH_BOX(&topk_select_each));
}

}  // namespace fgunlearn::ops
