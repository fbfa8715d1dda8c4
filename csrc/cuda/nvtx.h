// Named ranges around each op's launches, for profilers. Header-only: nothing is linked, and without a profiler
// attached a range costs a few nanoseconds.
#pragma once

#if defined(__CUDACC__) && __has_include(<nvtx3/nvToolsExt.h>)
#include <nvtx3/nvToolsExt.h>
#define FGU_HAS_NVTX 1
#endif

namespace fgunlearn::cuda {

class Range {
 public:
#if defined(FGU_HAS_NVTX)
  explicit Range(const char* name) { nvtxRangePushA(name); }
  ~Range() { nvtxRangePop(); }
#else
  explicit Range(const char*) {}
  ~Range() {}
#endif
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
};

}  // namespace fgunlearn::cuda
