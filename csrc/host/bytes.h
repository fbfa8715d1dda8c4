#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

namespace fgunlearn::host {

namespace py = pybind11;

// A contiguous buffer of bytes, held as long as this lives: neither freed nor resized by its owner.
class Bytes {
 public:
  Bytes(const py::buffer& from, const char* argument, bool writable = false) : info_(from.request(writable)) {
    if (info_.itemsize != 1 || info_.ndim != 1 || (info_.size > 0 && info_.strides[0] != 1)) {
      throw py::value_error(std::string(argument) + " must be contiguous bytes in one dimension");
    }
  }

  uint8_t* data() const { return static_cast<uint8_t*>(info_.ptr); }
  int64_t size() const { return info_.size; }

  // How many elements of `width` bytes it holds.
  int64_t elements(int width, const char* argument) const {
    if (size() % width != 0) {
      throw py::value_error(std::string(argument) + " has " + std::to_string(size()) + " bytes, no multiple of " +
                            std::to_string(width));
    }
    return size() / width;
  }

 private:
  py::buffer_info info_;
};

inline void check_same_size(const Bytes& one, const char* its_argument, const Bytes& other, const char* argument) {
  if (one.size() != other.size()) {
    throw py::value_error(std::string(its_argument) + " has " + std::to_string(one.size()) + " bytes, " + argument +
                          " " + std::to_string(other.size()));
  }
}

}  // namespace fgunlearn::host
