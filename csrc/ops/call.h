// One call of an op: its name for messages, the device it runs on, and what kernels need there.
//
// csrc/ops is compiled twice, once per device: FGU_DEVICE is cpu or cuda, `kernels` is the namespace of that device's
// kernels, and FGU_KERNEL_HEADER(select.h) their header. What a binding checks and in which words is so the same on
// both.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(FGU_FOR_CUDA)
#include "cuda/context.h"
#else
#include "core/executor.h"
#endif

#define FGU_STRINGIFY_(x) #x
#define FGU_STRINGIFY(x) FGU_STRINGIFY_(x)
// clang-format off: blanks around the slash would be part of the header's name
#define FGU_KERNEL_HEADER(file) FGU_STRINGIFY(FGU_DEVICE/file)
// clang-format on

namespace fgunlearn::FGU_DEVICE {}

namespace fgunlearn::ops {

namespace kernels = ::fgunlearn::FGU_DEVICE;

using torch::stable::Tensor;
using Tensors = std::vector<Tensor>;

#if defined(FGU_FOR_CUDA)
using Engine = cuda::Context;
// FGU_KERNELS(m) { m.impl("op", TORCH_BOX(&kernel)); } registers kernels for this device's tensors.
#define FGU_KERNELS(library) STABLE_TORCH_LIBRARY_IMPL(fgunlearn, CUDA, library)
#define FGU_SCHEMAS(library) \
  [[maybe_unused]] static void fgu_no_schemas(::torch::stable::detail::StableLibrary& library)
#else
using Engine = Executor;
// The key is the one that also serves calls with empty lists, in which there is no tensor whose device could decide.
#define FGU_KERNELS(library) STABLE_TORCH_LIBRARY_IMPL(fgunlearn, CompositeExplicitAutograd, library)
// Schemas are defined once, by the library that is always there.
#define FGU_SCHEMAS(library) STABLE_TORCH_LIBRARY_FRAGMENT(fgunlearn, library)
#endif

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

// Made at the beginning of an op, from its tensors. For CUDA it makes the tensors' device the current one until the op
// returns, works on torch's current stream, and takes device memory from torch's allocator.
class Call {
 public:
  // The device is that of the first tensor there is; without one (empty lists) it is the CPU.
  Call(const char* name, std::initializer_list<const Tensors*> arguments);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  const Engine& engine() const { return *engine_; }

  bool is_here(const Tensor& tensor) const;
  // "the CPU", or "cuda:0".
  std::string where() const;

  // Uninitialised, 1-D, on the op's device.
  Tensor empty(int64_t numel, torch::headeronly::ScalarType dtype) const;
  // The values, 1-D, on the op's device. Enqueued, not waited for.
  Tensor make(const std::vector<double>& values) const;

 private:
  friend std::ostream& operator<<(std::ostream& out, const Call& call) { return out << call.name_; }

  const char* name_;
  torch::stable::Device device_;
#if defined(FGU_FOR_CUDA)
  std::unique_ptr<torch::stable::accelerator::DeviceGuard> guard_;
  mutable Tensors workspace_;  // back to torch's allocator, in stream order, when the op returns
#endif
  std::unique_ptr<Engine> engine_;
};

}  // namespace fgunlearn::ops
