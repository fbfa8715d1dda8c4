// From a selection to index tensors, for the ops that select.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>

#include "core/select.h"
#include "ops/tensors.h"
#include FGU_KERNEL_HEADER(select.h)

namespace fgunlearn::ops {

inline void check_count(const Call& op, const char* argument, int64_t k, int64_t n) {
  check(k >= 0 && k <= n, op, ": ", argument, " must be in [0, ", n, "], got ", k);
}

// The outputs of a packed selection: indices of all segments one after another, offsets, thresholds.
class PackedTensors {
 public:
  PackedTensors(const Call& op, const std::vector<Segment>& segments, int64_t k, int64_t thresholds)
      : wide_(std::any_of(segments.begin(), segments.end(),
                          [](const Segment& segment) { return segment.numel >= kNarrowIndexLimit; })),
        indices_(op.empty(k, wide_ ? torch::headeronly::ScalarType::Long : torch::headeronly::ScalarType::Int)),
        offsets_(op.empty(static_cast<int64_t>(segments.size()) + 1, torch::headeronly::ScalarType::Long)),
        thresholds_(op.empty(thresholds, torch::headeronly::ScalarType::Double)) {}

  Packed places() const {
    return {wide_, indices_.data_ptr(), static_cast<int64_t*>(offsets_.data_ptr()),
            static_cast<double*>(thresholds_.data_ptr())};
  }
  std::tuple<Tensor, Tensor, Tensor> tensors() const { return {indices_, offsets_, thresholds_}; }

 private:
  bool wide_;
  Tensor indices_;
  Tensor offsets_;
  Tensor thresholds_;
};

// select(), with keys that can't be ranked reported under the argument's name.
template <typename Select>
auto refusing_bad_keys(const Call& op, const char* argument, Select&& select) {
  try {
    return select();
  } catch (const BadKeys& bad) {
    fail(op, ": ", argument, "[", bad.segment, "] holds ", bad.count, " ", bad.what_they_are);
  }
}

// One tensor per segment: int32 where its numel < 2^31, else int64.
template <typename Selected>
Tensors write_indices(const Call& op, const std::vector<Segment>& segments, const Selected& selected) {
  using torch::headeronly::ScalarType;
  Tensors indices;
  std::vector<bool> wide;
  std::vector<void*> out;
  for (size_t t = 0; t < segments.size(); ++t) {
    wide.push_back(segments[t].numel >= kNarrowIndexLimit);
    indices.push_back(op.empty(selected.counts()[t], wide[t] ? ScalarType::Long : ScalarType::Int));
    out.push_back(indices[t].data_ptr());
  }
  selected.write(op.engine(), wide, out);
  return indices;
}

}  // namespace fgunlearn::ops
