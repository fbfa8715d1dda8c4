// From stable-ABI tensors to what kernels take: segments, index lists, an executor. Checks live here, at the edge, and
// say op, argument, position and value. A failed check throws before anything is written.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/executor.h"
#include "core/segment.h"

namespace fgunlearn::ops {

using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) fail(parts...);
}

// An executor over torch's own thread pool, of torch.get_num_threads() workers.
Executor torch_executor();

DType dtype_of(const char* op, const char* argument, int64_t position, const Tensor& tensor);

// The tensors as segments one after another, each with its strides. Refuses other than CPU tensors of a supported
// dtype.
std::vector<Segment> segments_of(const char* op, const char* argument, const Tensors& tensors);

// The same for tensors that are written to: one whose elements share memory (an expanded one) is refused, as torch
// does, since workers would write to the same place and coordinates off the selection would move.
std::vector<Segment> writable_segments_of(const char* op, const char* argument, const Tensors& tensors);

// The same for tensors that must be contiguous; `copies` keeps contiguous copies of those that are not alive.
std::vector<Segment> contiguous_segments_of(const char* op, const char* argument, const Tensors& tensors,
                                            Tensors& copies);

// One index list per segment. Checks dtype (int32 or int64), that each is contiguous, strictly ascending and in range.
std::vector<IndexList> indices_of(const char* op, const Tensors& indices, const std::vector<Segment>& segments);

void check_same_length(const char* op, const char* a, size_t a_length, const char* b, size_t b_length);
void check_same_shape(const char* op, const char* a, const Tensor& x, const char* b, const Tensor& y, size_t position);

Tensor empty_cpu(int64_t numel, torch::headeronly::ScalarType dtype);

// FGU_CPU_KERNELS(m) { m.impl("op", TORCH_BOX(&kernel)); } registers kernels for CPU tensors. The key is the one that
// also serves calls with empty lists, in which there is no tensor whose device could decide; a library for another
// device registers its own key, which comes first, and without one the kernels refuse such tensors.
#define FGU_CPU_KERNELS(library) STABLE_TORCH_LIBRARY_IMPL(fgunlearn, CompositeExplicitAutograd, library)

}  // namespace fgunlearn::ops
