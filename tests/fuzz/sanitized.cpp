// The patcher alone, to be built with sanitizers: building.py.
#include <pybind11/pybind11.h>

#include <vector>

#include "host/bind_patch.h"
#include "host/bind_sha256.h"

PYBIND11_MODULE(_host, m) {
  fgunlearn::host::bind_patch(m);
  fgunlearn::host::bind_sha256(m);
  // What a defect would look like: shows that the sanitizers are at work.
  m.def("read_outside", [](size_t beyond) {
    const std::vector<char> held(8);
    return held.data()[held.size() + beyond];
  });
}
