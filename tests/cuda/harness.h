// What the tests of csrc/cuda share: a registry, "device" memory that is dirty and exactly as large as asked for, and
// lists of tensors of mixed dtypes, sizes, alignments and layouts.
#pragma once

#include <cuda_runtime.h>

#include <cstring>
#include <memory>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/executor.h"
#include "core/segment.h"
#include "cuda/context.h"

namespace fgunlearn::test {

using Body = void (*)();

struct Registration {
  Registration(const char* name, Body body);
};

#define TEST(name)                                                               \
  static void name();                                                            \
  static const ::fgunlearn::test::Registration name##_registration(#name, name); \
  static void name()

template <typename... Parts>
[[noreturn]] void fail(const char* file, int line, const Parts&... parts) {
  std::ostringstream message;
  message << file << ":" << line << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// CHECK(condition, what, to, print, ...)
#define CHECK(condition, ...)                                                                                   \
  do {                                                                                                          \
    if (!(condition)) ::fgunlearn::test::fail(__FILE__, __LINE__, #condition, " does not hold", ##__VA_ARGS__); \
  } while (false)

// Memory that AddressSanitizer watches to the byte, filled with rubbish.
class Memory {
 public:
  void* allocate(int64_t bytes, int64_t alignment = 256, int64_t misalignment = 0);

 private:
  std::vector<std::unique_ptr<void, void (*)(void*)>> blocks_;
};

// A context with few multiprocessors, so that blocks loop, and workspace that lives as long as it does.
class Device {
 public:
  explicit Device(int multiprocessors = 1);
  const cuda::Context& context() const { return context_; }
  template <typename T>
  T* allocate(int64_t count) {
    return static_cast<T*>(memory_.allocate(count * static_cast<int64_t>(sizeof(T))));
  }

 private:
  Memory memory_;
  cuda::Context context_;
};

inline Executor one_thread() {
  return Executor(1, [](int64_t, Executor::Task task, void* context) { task(0, context); });
}

// A list of tensors, and copies of it: the CPU kernels work on one, the CUDA kernels on another.
class TensorList {
 public:
  struct Options {
    std::vector<DType> dtypes = {DType::f32, DType::f64, DType::f16, DType::bf16};
    bool strided = true;     // some tensors with gaps or permuted dimensions
    bool misaligned = true;  // some that begin at an odd element
  };

  TensorList() = default;
  TensorList(TensorList&&) = default;
  TensorList& operator=(TensorList&&) = default;

  // Standard normal values, in an order of sizes, dtypes and layouts that `seed` decides.
  static TensorList normal(const std::vector<int64_t>& numels, uint64_t seed, const Options& options);
  static TensorList normal(const std::vector<int64_t>& numels, uint64_t seed) {
    return normal(numels, seed, Options());
  }
  // The same sizes and layouts in memory of its own.
  TensorList copy() const;
  // The same sizes and dtypes, contiguous, with other values.
  TensorList like(uint64_t seed) const;

  const std::vector<Segment>& segments() const { return segments_; }
  std::vector<Segment>& segments() { return segments_; }
  void add(DType dtype, const std::vector<double>& values, int64_t misalignment = 0);
  void set(int64_t segment, int64_t flat, double value);
  double get(int64_t segment, int64_t flat) const;
  // All bits of all tensors, gaps included.
  bool same_bits(const TensorList& other) const;

 private:
  void add_empty(DType dtype, int64_t numel, int64_t extent, const Layout& layout, int64_t misalignment);

  std::unique_ptr<Memory> memory_ = std::make_unique<Memory>();
  std::vector<Segment> segments_;
  std::vector<int64_t> extents_;  // elements from the first to the last, gaps included
  std::vector<int64_t> misalignments_;
};

// About `share` of each tensor's coordinates, ascending, as int32 or int64 by turns.
class IndexLists {
 public:
  IndexLists(const std::vector<Segment>& segments, double share, uint64_t seed);
  const std::vector<IndexList>& lists() const { return lists_; }

 private:
  Memory memory_;
  std::vector<IndexList> lists_;
};

using Indices = std::vector<std::vector<int64_t>>;

// Runs write(wide, pointers) on outputs of the given sizes and widens what it wrote.
template <typename Selected, typename Engine>
Indices indices_of(const Selected& selected, const Engine& engine, bool wide_by_turns) {
  Memory memory;
  std::vector<bool> wide;
  std::vector<void*> out;
  for (size_t t = 0; t < selected.counts().size(); ++t) {
    wide.push_back(wide_by_turns && t % 2 == 1);
    out.push_back(memory.allocate(selected.counts()[t] * (wide[t] ? 8 : 4)));
  }
  selected.write(engine, wide, out);
  Indices indices;
  for (size_t t = 0; t < out.size(); ++t) {
    indices.emplace_back();
    for (int64_t j = 0; j < selected.counts()[t]; ++j) {
      indices[t].push_back(wide[t] ? static_cast<int64_t*>(out[t])[j] : static_cast<int32_t*>(out[t])[j]);
    }
  }
  return indices;
}

// Runs body with blocks and threads in forward, reverse and shuffled order.
template <typename Run>
void in_every_order(Run&& run) {
  for (const shim::Order order : {shim::Order::forward, shim::Order::reverse, shim::Order::shuffled}) {
    shim::set_order(order, 7);
    run();
  }
  shim::set_order(shim::Order::forward);
}

}  // namespace fgunlearn::test
