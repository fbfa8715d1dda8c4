// torch.ops.fgunlearn.{bracket_histogram, bracket_split}
#include "core/bracket.h"

#include "ops/selected.h"
#include "ops/tensors.h"
#include FGU_KERNEL_HEADER(bracket.h)

namespace fgunlearn::ops {

using torch::headeronly::ScalarType;

namespace {

std::vector<Segment> key_segments(const Call& op, const Tensors& keys, bool wide, Tensors& copies) {
  const auto segments = contiguous_segments_of(op, "keys", keys, copies);
  for (size_t t = 0; t < segments.size(); ++t) {
    check(wide || segments[t].dtype != DType::f64, op, ": keys[", t,
          "] is float64, and its 63-bit keys need wide=True");
  }
  return segments;
}

Tensor bracket_histogram(const Tensors keys, int64_t low, int64_t shift, int64_t bins, bool wide) {
  const Call op("bracket_histogram", {&keys});
  check(low >= 0, op, ": low must be >= 0, got ", low);
  check(shift >= 0 && shift <= 62, op, ": shift must be in [0, 62], got ", shift);
  check(bins >= 1 && bins <= kMaxBins, op, ": bins must be in [1, ", kMaxBins, "], got ", bins);
  Tensors copies;
  const auto segments = key_segments(op, keys, wide, copies);
  Tensor counts = op.empty(bins + 2, ScalarType::Long);
  kernels::bracket_histogram(op.engine(), segments, low, shift, bins, wide, static_cast<int64_t*>(counts.data_ptr()));
  return counts;
}

std::tuple<Tensors, Tensors> bracket_split(const Tensors keys, int64_t low, int64_t high, bool wide) {
  const Call op("bracket_split", {&keys});
  check(low >= 0, op, ": low must be >= 0, got ", low);
  check(low <= high, op, ": low must not be above high, got ", low, " and ", high);
  Tensors copies;
  const auto segments = key_segments(op, keys, wide, copies);
  const auto [above, between] = kernels::bracket_split(op.engine(), segments, low, high, wide);
  return {write_indices(op, segments, above), write_indices(op, segments, between)};
}

}  // namespace

FGU_SCHEMAS(m) {
  m.def("bracket_histogram(Tensor[] keys, int low, int shift, int bins, bool wide) -> Tensor");
  m.def("bracket_split(Tensor[] keys, int low, int high, bool wide) -> (Tensor[], Tensor[])");
}

FGU_KERNELS(m) {
  m.impl("bracket_histogram", TORCH_BOX(&bracket_histogram));
  m.impl("bracket_split", TORCH_BOX(&bracket_split));
}

}  // namespace fgunlearn::ops
