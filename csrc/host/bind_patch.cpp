// Forget patches for Python: every buffer's size and layout is checked here, once, before its memory is touched.
#include "host/bind_patch.h"

#include <string>

#include "host/bytes.h"
#include "host/patch.h"

namespace py = pybind11;

namespace fgunlearn::host {

namespace {

int checked_width(int width) {
  if (width != 1 && width != 2 && width != 4 && width != 8) {
    throw py::value_error("width must be 1, 2, 4 or 8 bytes, got " + std::to_string(width));
  }
  return width;
}

int64_t checked_count(int64_t count, const char* argument) {
  if (count < 0) throw py::value_error(std::string(argument) + " must be >= 0, got " + std::to_string(count));
  return count;
}

void refuse(const Flaw& flaw) {
  if (!flaw.empty()) throw py::value_error(flaw);
}

py::bytes as_bytes(const std::vector<uint8_t>& held) {
  return {reinterpret_cast<const char*>(held.data()), held.size()};
}

// An Exchange and the buffers that it reads.
struct Held {
  Held(const py::buffer& gaps, const py::buffer& from, const py::buffer& to, int width, int64_t numel)
      : gaps(gaps, "gaps"),
        from(from, "from_values"),
        to(to, "to_values"),
        width(checked_width(width)),
        exchange(GapReader(this->gaps.data(), this->gaps.data() + this->gaps.size(), checked_count(numel, "numel")),
                 this->from.data(), this->to.data(), this->from.elements(width, "from_values"), width) {
    check_same_size(this->from, "from_values", this->to, "to_values");
  }

  Bytes gaps, from, to;
  int width;
  Exchange exchange;
};

}  // namespace

void bind_patch(py::module_& m) {
  py::class_<Differences>(m, "Differences", "The values that differ between two tensors that come in pieces.")
      .def(py::init([](int width) { return Differences(checked_width(width)); }), py::arg("width"))
      .def(
          "add",
          [](Differences& self, const py::buffer& old_values, const py::buffer& new_values) {
            const Bytes was(old_values, "old_values"), is(new_values, "new_values");
            check_same_size(was, "old_values", is, "new_values");
            const int64_t count = was.elements(self.width(), "old_values");
            py::gil_scoped_release free;
            return self.add(was.data(), is.data(), count);
          },
          py::arg("old_values"), py::arg("new_values"),
          "The next elements of both, as bytes; whether any of them differ in a bit.")
      .def_property_readonly("count", &Differences::count)
      .def_property_readonly("gaps", [](const Differences& self) { return as_bytes(self.gaps()); })
      .def_property_readonly("old_values", [](const Differences& self) { return as_bytes(self.old_values()); })
      .def_property_readonly("new_values", [](const Differences& self) { return as_bytes(self.new_values()); });

  py::class_<Held>(m, "Exchange", "Puts changed values into a tensor that comes in pieces.")
      .def(py::init<const py::buffer&, const py::buffer&, const py::buffer&, int, int64_t>(), py::arg("gaps"),
           py::arg("from_values"), py::arg("to_values"), py::arg("width"), py::arg("numel"))
      .def(
          "next_changes",
          [](Held& self, int64_t count) {
            Flaw flaw;
            const bool found = self.exchange.next_changes(checked_count(count, "count"), &flaw);
            refuse(flaw);
            return found;
          },
          py::arg("count"), "Moves on by count elements, if none of them changes; else stays and returns True.")
      .def(
          "put",
          [](Held& self, const py::buffer& piece, bool check) {
            const Bytes held(piece, "piece", true);
            const int64_t count = held.elements(self.width, "piece");
            Flaw flaw;
            {
              py::gil_scoped_release free;
              self.exchange.put(held.data(), count, check, &flaw);
            }
            refuse(flaw);
          },
          py::arg("piece"), py::arg("check") = true,
          "Changes the next elements in place; with check, ValueError where one is not what from_values says.");

  m.def(
      "check_gaps",
      [](const py::buffer& gaps, int64_t count, int64_t numel) {
        const Bytes held(gaps, "gaps");
        checked_count(count, "count");
        checked_count(numel, "numel");
        Flaw flaw;
        {
          py::gil_scoped_release free;
          flaw = check_gaps(held.data(), held.data() + held.size(), count, numel);
        }
        refuse(flaw);
      },
      py::arg("gaps"), py::arg("count"), py::arg("numel"),
      "ValueError unless gaps are exactly count ascending positions below numel.");
}

}  // namespace fgunlearn::host
