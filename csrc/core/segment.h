// A list of tensors seen as one vector: the segment table that kernels walk, so that nothing is concatenated.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace fgunlearn {

constexpr int32_t kMaxDims = 8;

// Where C-order flat index i of a tensor lies in memory. Dimensions that can be merged are merged, so a contiguous
// tensor has ndim <= 1 and no arithmetic is done for it.
struct Layout {
  int32_t ndim = 0;  // 0: contiguous
  int64_t sizes[kMaxDims] = {};
  int64_t strides[kMaxDims] = {};

  FGU_HOST_DEVICE int64_t operator()(int64_t flat) const {
    if (ndim == 0) return flat;
    int64_t where = 0;
    for (int32_t d = ndim - 1; d > 0; --d) {
      const int64_t next = flat / sizes[d];
      where += (flat - next * sizes[d]) * strides[d];
      flat = next;
    }
    return where + flat * strides[0];
  }
};

// One tensor of the list. `offset` is the global index of its first element.
struct Segment {
  void* data = nullptr;
  int64_t numel = 0;
  int64_t offset = 0;
  DType dtype = DType::f32;
  Layout layout;
};

// Sorted local flat indices into one segment: int32 where its numel < 2^31, int64 otherwise.
struct IndexList {
  const void* data = nullptr;
  int64_t count = 0;
  bool wide = false;

  FGU_HOST_DEVICE int64_t operator[](int64_t j) const {
    return wide ? static_cast<const int64_t*>(data)[j] : static_cast<const int32_t*>(data)[j];
  }
};

constexpr int64_t kNarrowIndexLimit = int64_t{1} << 31;  // tensors with fewer elements get int32 indices

}  // namespace fgunlearn
