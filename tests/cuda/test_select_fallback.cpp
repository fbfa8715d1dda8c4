// The ways of a selection whose sample misled: keys hidden where the sample does not look, and brackets that miss.
#include <algorithm>
#include <cmath>

#include "core/select.h"
#include "cpu/select.h"
#include "cuda/select.h"
#include "cuda/select_pipeline.h"
#include "harness.h"

namespace fgunlearn::test {

namespace {

// The places that sample_kernel reads of a group of n keys.
std::vector<bool> sampled(int64_t n) {
  const int64_t m = std::clamp(n / 128, int64_t{1} << 13, int64_t{1} << 16);
  std::vector<bool> seen(static_cast<size_t>(n));
  for (int64_t j = 0; j < m; ++j) {
    const int64_t width = n / m;
    const uint64_t draw = static_cast<uint64_t>(j) * 0x9E3779B97F4A7C15ull;
    const uint64_t mixed = (draw ^ (draw >> 29)) * 0xBF58476D1CE4E5B9ull;
    const int64_t place =
        width * j + (n % m) * j / m + static_cast<int64_t>((mixed >> 33) % static_cast<uint64_t>(width));
    seen[static_cast<size_t>(place)] = true;
  }
  return seen;
}

// Normal keys where the sample looks, and `count` of [low, high] where it does not.
std::vector<double> hiding(int64_t n, int64_t count, double low, double high) {
  std::mt19937_64 random(static_cast<uint64_t>(n));
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(low, high);
  const std::vector<bool> seen = sampled(n);
  std::vector<double> values;
  for (int64_t i = 0; i < n; ++i) {
    const bool hide = !seen[static_cast<size_t>(i)] && count > 0 && i > n / 5;
    count -= hide ? 1 : 0;
    values.push_back(hide ? uniform(random) : normal(random));
  }
  return values;
}

template <typename Selected, typename Engine>
std::vector<std::vector<int64_t>> indices_of(const Selected& selected, const Engine& engine) {
  Memory memory;
  std::vector<void*> out;
  for (const int64_t count : selected.counts()) out.push_back(memory.allocate(8 * count));
  selected.write(engine, std::vector<bool>(out.size(), true), out);
  std::vector<std::vector<int64_t>> indices;
  for (size_t t = 0; t < out.size(); ++t) {
    const auto* index = static_cast<const int64_t*>(out[t]);
    indices.emplace_back(index, index + selected.counts()[t]);
  }
  return indices;
}

void check(const TensorList& keys, const std::vector<int64_t>& k) {
  const auto expected = cpu::top_k_each(one_thread(), keys.segments(), k);
  const auto wanted = indices_of(expected, one_thread());
  Device device(2);
  const auto got = cuda::top_k_each(device.context(), keys.segments(), k);
  CHECK(got.counts() == expected.counts());
  CHECK(got.thresholds() == expected.thresholds());
  CHECK(indices_of(got, device.context()) == wanted);
  if (k.size() != 1) return;
  Memory memory;
  auto* indices = static_cast<int64_t*>(memory.allocate(8 * k[0]));
  auto* offsets = static_cast<int64_t*>(memory.allocate(16));
  double threshold = 0.0;
  cuda::top_k_packed(device.context(), keys.segments(), k[0], {true, indices, offsets, &threshold});
  CHECK(threshold == expected.thresholds()[0]);
  CHECK(std::vector<int64_t>(indices, indices + k[0]) == wanted[0]);
}

}  // namespace

TEST(large_keys_that_the_sample_misses_are_found_by_radix) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    TensorList keys;
    keys.add(dtype, hiding(100'003, 3'000, 50.0, 90.0), 1);
    for (const int64_t k : {1'500, 2'999}) check(keys, {k});
  }
}

TEST(more_candidates_than_there_is_room_for_are_ranked_by_radix) {
  TensorList keys;
  keys.add(DType::f32, hiding(400'000, 150'000, 2.58, 2.582), 1);
  for (const int64_t k : {30'000, 4'000}) check(keys, {k});
}

TEST(a_tensor_that_runs_out_of_room_does_not_disturb_the_others) {
  TensorList keys;
  keys.add(DType::f32, hiding(60'000, 0, 0, 0), 2);
  keys.add(DType::f32, hiding(400'000, 200'000, 2.57, 2.585), 1);
  keys.add(DType::f16, hiding(50'000, 0, 0, 0), 3);
  check(keys, {500, 4'000, 40'000});
}

namespace {

// Random-k's one pass with a bracket from outside.
cuda::Findings drawn(const Device& device, int64_t n, int64_t k, uint64_t seed, uint64_t low, uint64_t high,
                     int64_t room) {
  std::vector<cuda::KeySegment> keys(1);
  keys[0].numel = n;
  cuda::Request request = cuda::request_of(keys, {k}, false);
  request.groups[0].candidates = room;
  cuda::Pipeline<uint64_t> pipeline(device.context(), request, false);
  cuda::GroupState<uint64_t> state{};
  state.phase = cuda::Phase::bracket;
  state.low = low;
  state.high = high;
  pipeline.set_brackets({state});
  pipeline.pass(cuda::RandomKeys{seed});
  pipeline.digits(cuda::Phase::ranked);
  return cuda::findings_of(device.context(), pipeline);
}

}  // namespace

TEST(a_bracket_of_randomk_that_misses_is_said_to) {
  constexpr int64_t n = 20'000;
  constexpr uint64_t half = uint64_t{1} << 62;
  const Device device;
  CHECK(drawn(device, n, 10'000, 5, half / 2, half * 3 / 2, n).settled);
  CHECK(!drawn(device, n, 10'000, 5, half * 3 / 2, half * 7 / 4, n).settled, ", all above the k-th");
  CHECK(!drawn(device, n, 10'000, 5, half / 8, half / 4, n).settled, ", all below the k-th");
  CHECK(!drawn(device, n, 10'000, 5, half / 2, half * 3 / 2, 100).settled, ", no room");
}

TEST(a_bracket_whose_candidates_are_not_needed_reads_none) {
  // Exactly k keys above the bracket, and no room for those inside.
  constexpr int64_t n = 50'000;
  constexpr uint64_t high = uint64_t{1} << 62;
  int64_t k = 0;
  for (int64_t i = 0; i < n; ++i) k += random_key(5, i) >= high ? 1 : 0;
  const Device device;
  const cuda::Findings found = drawn(device, n, k, 5, 0, high, 100);
  CHECK(found.settled);
  CHECK(found.counts[0] == k, ", got ", found.counts[0], " of ", k);
}

}  // namespace fgunlearn::test
