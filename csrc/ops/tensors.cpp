#include "ops/tensors.h"

#if !defined(FGU_FOR_CUDA)
#include <algorithm>
#include <atomic>

#include "cpu/coordinates.h"
#endif

namespace fgunlearn::ops {

using torch::headeronly::ScalarType;

DType dtype_of(const Call& op, const char* argument, int64_t position, const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::BFloat16:
      return DType::bf16;
    default:
      fail(op, ": ", argument, "[", position, "] must be float32, float64, float16 or bfloat16, got scalar type ",
           static_cast<int>(tensor.scalar_type()));
  }
}

namespace {

// Strides of the tensor with neighbouring dimensions merged where memory allows it.
Layout layout_of(const Call& op, const char* argument, int64_t position, const Tensor& tensor) {
  Layout layout;
  if (tensor.is_contiguous()) return layout;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (sizes[d] == 1) continue;
    const int32_t last = layout.ndim - 1;
    if (last >= 0 && layout.strides[last] == strides[d] * sizes[d]) {
      layout.sizes[last] *= sizes[d];
      layout.strides[last] = strides[d];
      continue;
    }
    check(layout.ndim < kMaxDims, op, ": ", argument, "[", position, "] has more than ", kMaxDims,
          " separate strides; make it contiguous");
    layout.sizes[layout.ndim] = sizes[d];
    layout.strides[layout.ndim] = strides[d];
    ++layout.ndim;
  }
  return layout;
}

Segment segment_of(const Call& op, const char* argument, int64_t position, const Tensor& tensor, int64_t offset) {
  check(op.is_here(tensor), op, ": ", argument, "[", position, "] must be on ", op.where(), " like the others");
  check(tensor.layout() == torch::headeronly::Layout::Strided, op, ": ", argument, "[", position,
        "] must be a strided tensor, not a sparse or packed one");
  Segment segment;
  segment.dtype = dtype_of(op, argument, position, tensor);
  segment.data = tensor.data_ptr();
  segment.numel = tensor.numel();
  segment.offset = offset;
  return segment;
}

}  // namespace

std::vector<Segment> segments_of(const Call& op, const char* argument, const Tensors& tensors) {
  std::vector<Segment> segments;
  segments.reserve(tensors.size());
  int64_t offset = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    Segment segment = segment_of(op, argument, static_cast<int64_t>(t), tensors[t], offset);
    segment.layout = layout_of(op, argument, static_cast<int64_t>(t), tensors[t]);
    offset += segment.numel;
    segments.push_back(segment);
  }
  return segments;
}

std::vector<Segment> writable_segments_of(const Call& op, const char* argument, const Tensors& tensors) {
  std::vector<Segment> segments = segments_of(op, argument, tensors);
  for (size_t t = 0; t < segments.size(); ++t) {
    const Layout& layout = segments[t].layout;
    for (int32_t d = 0; d < layout.ndim; ++d) {
      check(layout.strides[d] != 0, op, ": ", argument, "[", t,
            "] is expanded: several of its elements are one place in memory; clone it before writing to it");
    }
  }
  return segments;
}

std::vector<Segment> contiguous_segments_of(const Call& op, const char* argument, const Tensors& tensors,
                                            Tensors& copies) {
  std::vector<Segment> segments;
  segments.reserve(tensors.size());
  int64_t offset = 0;
  for (size_t t = 0; t < tensors.size(); ++t) {
    Segment segment = segment_of(op, argument, static_cast<int64_t>(t), tensors[t], offset);
    if (!tensors[t].is_contiguous()) {
      copies.push_back(torch::stable::contiguous(tensors[t]));
      segment.data = copies.back().data_ptr();
    }
    offset += segment.numel;
    segments.push_back(segment);
  }
  return segments;
}

std::vector<IndexList> indices_of(const Call& op, const Tensors& indices, const std::vector<Segment>& segments) {
  check(indices.size() == segments.size(), op, ": got ", indices.size(), " index tensors for ", segments.size(),
        " tensors");
  std::vector<IndexList> lists(indices.size());
  for (size_t t = 0; t < indices.size(); ++t) {
    const Tensor& index = indices[t];
    const ScalarType type = index.scalar_type();
    check(type == ScalarType::Int || type == ScalarType::Long, op, ": indices[", t,
          "] must be int32 or int64, got scalar type ", static_cast<int>(type));
    check(op.is_here(index) && index.dim() == 1 && index.is_contiguous(), op, ": indices[", t,
          "] must be a contiguous 1-D tensor on ", op.where());
    lists[t].data = index.data_ptr();
    lists[t].count = index.numel();
    lists[t].wide = type == ScalarType::Long;
  }
#if !defined(FGU_FOR_CUDA)
  // Ascending and in range: the kernels write through these without a further look, and no two workers may share a
  // place.
  constexpr int64_t chunk = int64_t{1} << 16;
  struct Piece {
    size_t tensor;
    int64_t begin;
  };
  std::vector<Piece> pieces;
  for (size_t t = 0; t < lists.size(); ++t) {
    for (int64_t begin = 0; begin < lists[t].count; begin += chunk) pieces.push_back({t, begin});
  }
  std::atomic<int64_t> bad{-1};
  op.engine().for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const IndexList& list = lists[pieces[p].tensor];
    const int64_t begin = pieces[p].begin;
    const int64_t end = std::min(list.count, begin + chunk);
    // Ascending from the piece before on, so only the list's two ends can be out of range.
    bool good = begin > 0 || list[0] >= 0;
    good &= end < list.count || list[end - 1] < segments[pieces[p].tensor].numel;
    cpu::with_indices(list, [&](const auto* index) {
      int64_t wrong = 0;  // a sum, not an early exit: the compiler can compare many at once
      for (int64_t j = std::max<int64_t>(begin, 1); j < end; ++j) wrong += index[j] <= index[j - 1];
      good &= wrong == 0;
    });
    if (!good) bad.store(static_cast<int64_t>(pieces[p].tensor), std::memory_order_relaxed);
  });
  if (const int64_t t = bad.load(); t >= 0) {
    int64_t before = -1;
    for (int64_t j = 0; j < lists[t].count; ++j) {
      check(lists[t][j] >= 0 && lists[t][j] < segments[t].numel, op, ": indices[", t, "][", j, "] = ", lists[t][j],
            " is out of range for a tensor of ", segments[t].numel, " elements");
      check(lists[t][j] > before, op, ": indices[", t, "] must ascend without repeats, but entry ", j, " is ",
            lists[t][j], " after ", before);
      before = lists[t][j];
    }
  }
#endif
  return lists;
}

void check_same_length(const Call& op, const char* a, size_t a_length, const char* b, size_t b_length) {
  check(a_length == b_length, op, ": ", a, " has ", a_length, " entries and ", b, " has ", b_length);
}

void check_same_shape(const Call& op, const char* a, const Tensor& x, const char* b, const Tensor& y, size_t position) {
  const auto same = [&] {
    if (x.dim() != y.dim()) return false;
    for (int64_t d = 0; d < x.dim(); ++d) {
      if (x.size(d) != y.size(d)) return false;
    }
    return true;
  };
  const auto shape = [](const Tensor& tensor) {
    std::ostringstream text;
    text << "(";
    for (int64_t d = 0; d < tensor.dim(); ++d) text << (d > 0 ? ", " : "") << tensor.size(d);
    text << ")";
    return text.str();
  };
  check(same(), op, ": ", a, "[", position, "] has shape ", shape(x), " and ", b, "[", position, "] has shape ",
        shape(y));
}

}  // namespace fgunlearn::ops
