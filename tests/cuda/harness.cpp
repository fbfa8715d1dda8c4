#include "harness.h"

#include <cstdio>
#include <cstdlib>

#include "core/dtype.h"

namespace fgunlearn::test {

namespace {

struct Test {
  const char* name;
  Body body;
};

std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

}  // namespace

Registration::Registration(const char* name, Body body) { tests().push_back({name, body}); }

void* Memory::allocate(int64_t bytes, int64_t alignment, int64_t misalignment) {
  // The tail of a larger aligned block would not be watched: the block ends where the bytes do.
  const size_t size = static_cast<size_t>(bytes + misalignment);
  void* block = nullptr;
  if (posix_memalign(&block, static_cast<size_t>(alignment), size == 0 ? 1 : size) != 0) throw std::bad_alloc();
  std::memset(block, 0xa5, size);
  blocks_.emplace_back(block, std::free);
  return static_cast<char*>(block) + misalignment;
}

Device::Device(int multiprocessors)
    : context_(nullptr, multiprocessors, [this](int64_t bytes) { return memory_.allocate(bytes); }) {}

void TensorList::add_empty(DType dtype, int64_t numel, int64_t extent, const Layout& layout, int64_t misalignment) {
  Segment segment;
  segment.dtype = dtype;
  segment.numel = numel;
  segment.offset = segments_.empty() ? 0 : segments_.back().offset + segments_.back().numel;
  segment.layout = layout;
  segment.data = memory_->allocate(extent * item_size(dtype), 256, misalignment * item_size(dtype));
  segments_.push_back(segment);
  extents_.push_back(extent);
  misalignments_.push_back(misalignment);
}

TensorList TensorList::normal(const std::vector<int64_t>& numels, uint64_t seed, const Options& options) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  TensorList made;
  for (size_t t = 0; t < numels.size(); ++t) {
    const DType dtype = options.dtypes[random() % options.dtypes.size()];
    const int64_t misalignment = options.misaligned && random() % 3 == 0 ? 1 + static_cast<int64_t>(random() % 3) : 0;
    const int64_t numel = numels[t];
    Layout layout;
    int64_t extent = numel;
    if (options.strided && numel >= 4 && numel % 2 == 0 && random() % 2 == 0) {
      if (random() % 2 == 0) {  // transposed: (2, numel / 2) in column order
        layout.ndim = 2;
        layout.sizes[0] = 2;
        layout.sizes[1] = numel / 2;
        layout.strides[0] = 1;
        layout.strides[1] = 2;
      } else {  // every third element
        layout.ndim = 1;
        layout.sizes[0] = numel;
        layout.strides[0] = 3;
        extent = 3 * (numel - 1) + 1;
      }
    }
    made.add_empty(dtype, numel, extent, layout, misalignment);
    for (int64_t i = 0; i < numel; ++i) made.set(static_cast<int64_t>(t), i, normal(random));
  }
  return made;
}

TensorList TensorList::copy() const {
  TensorList made;
  for (size_t t = 0; t < segments_.size(); ++t) {
    made.add_empty(segments_[t].dtype, segments_[t].numel, extents_[t], segments_[t].layout, misalignments_[t]);
    std::memcpy(made.segments_[t].data, segments_[t].data,
                static_cast<size_t>(extents_[t] * item_size(segments_[t].dtype)));
    made.segments_[t].offset = segments_[t].offset;
  }
  return made;
}

TensorList TensorList::like(uint64_t seed) const {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  TensorList made;
  for (const Segment& segment : segments_) {
    made.add_empty(segment.dtype, segment.numel, segment.numel, Layout(), static_cast<int64_t>(random() % 3));
    const int64_t t = static_cast<int64_t>(made.segments_.size()) - 1;
    for (int64_t i = 0; i < segment.numel; ++i) made.set(t, i, normal(random));
  }
  return made;
}

void TensorList::add(DType dtype, const std::vector<double>& values, int64_t misalignment) {
  const int64_t numel = static_cast<int64_t>(values.size());
  add_empty(dtype, numel, numel, Layout(), misalignment);
  for (int64_t i = 0; i < numel; ++i)
    set(static_cast<int64_t>(segments_.size()) - 1, i, values[static_cast<size_t>(i)]);
}

void TensorList::set(int64_t segment, int64_t flat, double value) {
  const Segment& s = segments_[static_cast<size_t>(segment)];
  dispatch(s.dtype, [&](auto tag) {
    using T = decltype(tag);
    using A = typename Convert<T>::accumulate_t;
    static_cast<T*>(s.data)[s.layout(flat)] = Convert<T>::store(static_cast<A>(value));
  });
}

double TensorList::get(int64_t segment, int64_t flat) const {
  const Segment& s = segments_[static_cast<size_t>(segment)];
  return dispatch(s.dtype, [&](auto tag) {
    using T = decltype(tag);
    return static_cast<double>(Convert<T>::load(static_cast<const T*>(s.data)[s.layout(flat)]));
  });
}

bool TensorList::same_bits(const TensorList& other) const {
  if (segments_.size() != other.segments_.size()) return false;
  for (size_t t = 0; t < segments_.size(); ++t) {
    if (extents_[t] != other.extents_[t] || segments_[t].dtype != other.segments_[t].dtype) return false;
    const size_t bytes = static_cast<size_t>(extents_[t] * item_size(segments_[t].dtype));
    if (std::memcmp(segments_[t].data, other.segments_[t].data, bytes) != 0) return false;
  }
  return true;
}

IndexLists::IndexLists(const std::vector<Segment>& segments, double share, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_real_distribution<double> uniform;
  for (size_t t = 0; t < segments.size(); ++t) {
    std::vector<int64_t> chosen;
    for (int64_t i = 0; i < segments[t].numel; ++i) {
      if (uniform(random) < share) chosen.push_back(i);
    }
    IndexList list;
    list.count = static_cast<int64_t>(chosen.size());
    list.wide = t % 2 == 1;
    void* data = memory_.allocate(list.count * (list.wide ? 8 : 4));
    for (int64_t j = 0; j < list.count; ++j) {
      if (list.wide) {
        static_cast<int64_t*>(data)[j] = chosen[static_cast<size_t>(j)];
      } else {
        static_cast<int32_t*>(data)[j] = static_cast<int32_t>(chosen[static_cast<size_t>(j)]);
      }
    }
    list.data = data;
    lists_.push_back(list);
  }
}

}  // namespace fgunlearn::test

int main(int argc, char** argv) {
  int failed = 0;
  int run = 0;
  for (const auto& test : fgunlearn::test::tests()) {
    if (argc > 1 && std::string(test.name).find(argv[1]) == std::string::npos) continue;
    ++run;
    try {
      test.body();
      std::printf("ok    %s\n", test.name);
    } catch (const std::exception& error) {
      ++failed;
      std::printf("FAIL  %s: %s\n", test.name, error.what());
    }
    std::fflush(stdout);
  }
  std::printf("%d passed, %d failed\n", run - failed, failed);
  return failed == 0 && run > 0 ? 0 : 1;
}
