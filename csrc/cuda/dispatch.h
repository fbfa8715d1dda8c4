// From a dtype and an address to a typed pointer, in device code.
#pragma once

#include <cuda_runtime.h>

#include "core/dtype.h"

namespace fgunlearn::cuda {

// As dispatch() of core/dtype.h, in device code.
template <typename Body>
__device__ inline void device_dispatch(DType dtype, Body&& body) {
  switch (dtype) {
    case DType::f64:
      return body(double{});
    case DType::f16:
      return body(f16_t{});
    case DType::bf16:
      return body(bf16_t{});
    case DType::f32:
      return body(float{});
  }
}

// The address as a pointer to global memory. One that was read from a table could point anywhere for all the compiler
// knows, and is then accessed through the slower generic instructions.
template <typename T>
__device__ inline T* in_global(void* address) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(address));
#endif
  return static_cast<T*>(address);
}

template <typename T>
__device__ inline const T* in_global(const void* address) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(address));
#endif
  return static_cast<const T*>(address);
}

}  // namespace fgunlearn::cuda
