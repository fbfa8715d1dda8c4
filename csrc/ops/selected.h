// From a selection to index tensors, for the ops that select.
#pragma once

#include <utility>

#include "core/select.h"
#include "ops/tensors.h"

namespace fgunlearn::ops {

inline void check_count(const Call& op, const char* argument, int64_t k, int64_t n) {
  check(k >= 0 && k <= n, op, ": ", argument, " must be in [0, ", n, "], got ", k);
}

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
