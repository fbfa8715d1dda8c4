#pragma once

#include <pybind11/pybind11.h>

namespace fgunlearn::host {

// Adds Sha256Pair to the module, if this processor can run it.
void bind_sha256(pybind11::module_& m);

}  // namespace fgunlearn::host
