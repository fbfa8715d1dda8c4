#include "host/bind_sha256.h"

#include "host/bytes.h"
#include "host/sha256.h"

namespace fgunlearn::host {

void bind_sha256(py::module_& m) {
  if (!Sha256Pair::supported()) return;
  py::class_<Sha256Pair>(m, "Sha256Pair",
                         "SHA-256 of two streams of the same length, at once. For one thread at a time.")
      .def(py::init<>())
      .def(
          "update",
          [](Sha256Pair& self, const py::buffer& first, const py::buffer& second) {
            const Bytes one(first, "first"), other(second, "second");
            check_same_size(one, "first", other, "second");
            py::gil_scoped_release free;
            self.update(one.data(), other.data(), one.size());
          },
          py::arg("first"), py::arg("second"),
          "The next bytes of both. While they are the same memory, this is the work of one.")
      .def(
          "hexdigests",
          [](const Sha256Pair& self) {
            const auto [first, second] = self.hexdigests();
            return py::make_tuple(first, second);
          },
          "Of what came so far.");
}

}  // namespace fgunlearn::host
