#pragma once

#include <pybind11/pybind11.h>

namespace fgunlearn::host {

// Adds Differences, Exchange and check_gaps to the module.
void bind_patch(pybind11::module_& m);

}  // namespace fgunlearn::host
