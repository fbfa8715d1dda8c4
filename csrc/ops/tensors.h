// From stable-ABI tensors to what kernels take: segments, index lists, an executor. Checks live here, at the edge, and
// say op, argument, position and value. A failed check throws before anything is written.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/segment.h"
#include "ops/call.h"

namespace fgunlearn::ops {

DType dtype_of(const Call& op, const char* argument, int64_t position, const Tensor& tensor);

// The tensors as segments one after another, each with its strides. Refuses tensors of another device or of an
// unsupported dtype.
std::vector<Segment> segments_of(const Call& op, const char* argument, const Tensors& tensors);

// The same for tensors that are written to: one whose elements share memory (an expanded one) is refused, as torch
// does, since workers would write to the same place and coordinates off the selection would move.
std::vector<Segment> writable_segments_of(const Call& op, const char* argument, const Tensors& tensors);

// The same for tensors that must be contiguous; `copies` keeps contiguous copies of those that are not alive.
std::vector<Segment> contiguous_segments_of(const Call& op, const char* argument, const Tensors& tensors,
                                            Tensors& copies);

// One index list per segment. Checks dtype (int32 or int64) and that each is contiguous; on the CPU also that each
// ascends strictly and is in range. On CUDA that would need a synchronisation: an index out of range stops the kernel,
// and the order is the caller's promise (a Selection checked both when it was made).
std::vector<IndexList> indices_of(const Call& op, const Tensors& indices, const std::vector<Segment>& segments);

void check_same_length(const Call& op, const char* a, size_t a_length, const char* b, size_t b_length);
void check_same_shape(const Call& op, const char* a, const Tensor& x, const char* b, const Tensor& y, size_t position);

}  // namespace fgunlearn::ops
