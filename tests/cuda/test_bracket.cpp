#include <algorithm>
#include <cmath>
#include <limits>

#include "core/bracket.h"
#include "cpu/bracket.h"
#include "cuda/bracket.h"
#include "harness.h"

namespace fgunlearn::test {

namespace {

const TensorList::Options kContiguous{{DType::f32, DType::f64, DType::f16, DType::bf16}, false, true};
const TensorList::Options kNarrow{{DType::f32, DType::f16, DType::bf16}, false, true};
const std::vector<int64_t> kSizes = {1, 0, 3000, 64, 7, 0, 20'005, 2, 1024, 8'192, 0};
constexpr int64_t kBeyond = std::numeric_limits<int64_t>::max();

int64_t key_at(const TensorList& keys, int64_t segment, int64_t flat, bool wide) {
  const double value = keys.get(segment, flat);
  return wide ? static_cast<int64_t>(key64(value)) : static_cast<int64_t>(key32(static_cast<float>(value)));
}

void check_histogram(const std::vector<Segment>& segments, int64_t low, int64_t shift, int64_t bins, bool wide) {
  std::vector<int64_t> expected(static_cast<size_t>(bins) + 2, -1);
  cpu::bracket_histogram(one_thread(), segments, low, shift, bins, wide, expected.data());
  Device device(2);
  auto* got = device.allocate<int64_t>(bins + 2);
  cuda::bracket_histogram(device.context(), segments, low, shift, bins, wide, got);
  for (int64_t slot = 0; slot < bins + 2; ++slot) {
    CHECK(got[slot] == expected[static_cast<size_t>(slot)], ", slot ", slot, " of ", bins, ", low ", low, ", shift ",
          shift, ", wide ", wide, ": ", got[slot], " and ", expected[static_cast<size_t>(slot)]);
  }
}

void check_split(const std::vector<Segment>& segments, int64_t low, int64_t high, bool wide) {
  const auto expected = cpu::bracket_split(one_thread(), segments, low, high, wide);
  Device device(2);
  const auto got = cuda::bracket_split(device.context(), segments, low, high, wide);
  CHECK(got.first.counts() == expected.first.counts(), ", above [", low, ", ", high, "), wide ", wide);
  CHECK(got.second.counts() == expected.second.counts(), ", in [", low, ", ", high, "), wide ", wide);
  CHECK(indices_of(got.first, device.context(), true) == indices_of(expected.first, one_thread(), false), ", above ",
        high);
  CHECK(indices_of(got.second, device.context(), true) == indices_of(expected.second, one_thread(), false), ", in [",
        low, ", ", high, ")");
}

}  // namespace

TEST(the_histogram_is_the_cpus) {
  in_every_order([] {
    for (const bool wide : {false, true}) {
      TensorList keys = TensorList::normal(kSizes, wide ? 1 : 2, wide ? kContiguous : kNarrow);
      for (int64_t t = 0; t < static_cast<int64_t>(kSizes.size()); ++t) {
        if (keys.segments()[static_cast<size_t>(t)].numel < 3000) continue;
        keys.set(t, 2999, std::nan(""));
        keys.set(t, 1, std::numeric_limits<double>::infinity());
      }
      const int64_t some = wide ? static_cast<int64_t>(key64(1.5)) : static_cast<int64_t>(key32(1.5f));
      for (const int64_t low : {int64_t{0}, some, kBeyond}) {
        for (const int64_t shift : {0, wide ? 44 : 15, wide ? 52 : 23, 62}) {
          for (const int64_t bins : {1, 100, 2'048, 2'049, 8'192, 8'193}) {
            check_histogram(keys.segments(), low, shift, bins, wide);
          }
        }
      }
    }
  });
}

TEST(the_histogram_of_the_most_bins_and_of_a_plateau_is_the_cpus) {
  TensorList keys = TensorList::normal({100'000, 40'001}, 3, kNarrow);
  keys.add(DType::f32, std::vector<double>(30'000, 1.0), 1);
  check_histogram(keys.segments(), 0, 15, kMaxBins, false);
  check_histogram(keys.segments(), static_cast<int64_t>(key32(1.0f)), 7, kMaxBins, false);
  check_histogram(keys.segments(), 0, 20, 2'048, false);
  check_histogram(keys.segments(), 0, 47, kMaxBins, true);
}

TEST(the_split_is_the_cpus) {
  in_every_order([] {
    for (const bool wide : {false, true}) {
      const TensorList keys = TensorList::normal(kSizes, wide ? 4 : 5, wide ? kContiguous : kNarrow);
      std::vector<int64_t> limits = {0, kBeyond};
      for (int64_t t = 0; t < static_cast<int64_t>(kSizes.size()); ++t) {
        if (keys.segments()[static_cast<size_t>(t)].numel > 0) limits.push_back(key_at(keys, t, 0, wide));
      }
      std::sort(limits.begin(), limits.end());
      for (size_t i = 0; i < limits.size(); ++i) {
        check_split(keys.segments(), limits[i], limits[i], wide);
        check_split(keys.segments(), limits[0], limits[i], wide);
        check_split(keys.segments(), limits[i], limits.back(), wide);
      }
    }
  });
}

TEST(nan_are_split_off_above_infinity) {
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    TensorList keys;
    keys.add(dtype, std::vector<double>(9'000, std::numeric_limits<double>::infinity()), 1);
    keys.set(0, 8'999, std::nan(""));
    keys.set(0, 5, 1.0);
    const bool wide = dtype == DType::f64;
    const int64_t infinity = wide ? static_cast<int64_t>(KeyTraits<uint64_t>::infinity)
                                  : static_cast<int64_t>(KeyTraits<uint32_t>::infinity);
    check_split(keys.segments(), infinity, infinity + 1, wide);
    Device device;
    const auto got = cuda::bracket_split(device.context(), keys.segments(), infinity, infinity + 1, wide);
    CHECK(got.first.counts() == std::vector<int64_t>{1});
    CHECK(got.second.counts() == std::vector<int64_t>{8'998});
  }
}

TEST(no_tensors_and_empty_tensors_are_bracketed_too) {
  check_histogram({}, 0, 0, 5, false);
  check_split({}, 0, 5, true);
  TensorList keys;
  keys.add(DType::f32, {});
  keys.add(DType::f16, {});
  check_histogram(keys.segments(), 0, 0, 5, false);
  check_split(keys.segments(), 0, 5, false);
}

TEST(hundreds_of_tensors_are_bracketed_in_a_constant_number_of_launches) {
  const TensorList keys = TensorList::normal(std::vector<int64_t>(300, 130), 1, kNarrow);
  Device device;
  shim::take_launches();
  cuda::bracket_histogram(device.context(), keys.segments(), 0, 20, 2'048, false, device.allocate<int64_t>(2'050));
  CHECK(shim::take_launches() <= 2);
  const auto split = cuda::bracket_split(device.context(), keys.segments(), 0, 1, false);
  indices_of(split.first, device.context(), false);
  const int64_t launches = shim::take_launches();
  CHECK(launches <= 8, ", took ", launches);
}

}  // namespace fgunlearn::test
