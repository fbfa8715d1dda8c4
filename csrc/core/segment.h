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

  FGU_HOST_DEVICE bool operator==(const Layout& other) const {
    if (ndim != other.ndim) return false;
    for (int32_t d = 0; d < ndim; ++d) {
      if (sizes[d] != other.sizes[d] || strides[d] != other.strides[d]) return false;
    }
    return true;
  }

  FGU_HOST_DEVICE int64_t operator()(int64_t flat) const {
    if (ndim == 0) return flat;
    int64_t where = 0;
    if (flat < (int64_t{1} << 31)) {  // 32-bit division takes half the time
      uint32_t rest = static_cast<uint32_t>(flat);
      for (int32_t d = ndim - 1; d > 0; --d) {
        const uint32_t size = static_cast<uint32_t>(sizes[d]);  // at most flat where a digit is not zero
        if (sizes[d] > rest) return where + static_cast<int64_t>(rest) * strides[d];
        const uint32_t next = rest / size;
        where += static_cast<int64_t>(rest - next * size) * strides[d];
        rest = next;
      }
      return where + static_cast<int64_t>(rest) * strides[0];
    }
    for (int32_t d = ndim - 1; d > 0; --d) {
      const int64_t next = flat / sizes[d];
      where += (flat - next * sizes[d]) * strides[d];
      flat = next;
    }
    return where + flat * strides[0];
  }
};

// Where ascending flat indices lie: a step within the innermost dimension is an addition, not a division per dimension.
class LayoutCursor {
 public:
  explicit LayoutCursor(const Layout& layout) : layout_(layout) {
    if (layout.ndim > 0) {
      inner_size_ = layout.sizes[layout.ndim - 1];
      inner_stride_ = layout.strides[layout.ndim - 1];
    }
  }

  // `flat` must not be smaller than in the call before.
  int64_t at(int64_t flat) {
    if (layout_.ndim == 0) return flat;
    if (flat < row_end_) return where_ + (flat - row_begin_) * inner_stride_;
    row_begin_ = flat - flat % inner_size_;
    row_end_ = row_begin_ + inner_size_;
    where_ = layout_(row_begin_);
    return where_ + (flat - row_begin_) * inner_stride_;
  }

 private:
  const Layout& layout_;
  int64_t inner_size_ = 1;
  int64_t inner_stride_ = 1;
  int64_t row_begin_ = 0;  // flat indices [row_begin_, row_end_) share all digits but the last
  int64_t row_end_ = 0;
  int64_t where_ = 0;  // of row_begin_
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
