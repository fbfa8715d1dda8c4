// fgunlearn._host: what has no tensors and needs no torch.
#include <pybind11/pybind11.h>

#include "cpu/isa/table.h"
#include "host/bind_patch.h"
#include "host/bind_sha256.h"

namespace py = pybind11;

PYBIND11_MODULE(_host, m) {
  m.doc() = "Build information, processor features, forget patches and their hashes; imports without torch.";
  m.def(
      "build_info",
      [] {
        py::dict info;
        info["version"] = FGU_VERSION;
        info["compiler"] = __VERSION__;
        info["torch_target"] = FGU_TORCH_TARGET;  // the oldest torch this build loads in
        info["torch_build"] = FGU_TORCH_BUILD;    // the torch whose headers it was built with
        info["cuda"] = std::string(FGU_CUDA) == "ON";
        info["arches"] = FGU_CUDA_ARCHITECTURES;
        return info;
      },
      "What this build contains, as a dict.");
  m.def(
      "simd", [] { return std::string(fgunlearn::cpu::isa().name); },
      "The instruction set the CPU kernels use on this processor: 'scalar', 'avx2' or 'avx512'.");
  fgunlearn::host::bind_patch(m);
  fgunlearn::host::bind_sha256(m);
}
