#include <cmath>
#include <functional>
#include <limits>

#include "core/select.h"
#include "cpu/select.h"
#include "cuda/select.h"
#include "harness.h"

namespace fgunlearn::test {

namespace {

const TensorList::Options kContiguous{{DType::f32, DType::f64, DType::f16, DType::bf16}, false, true};
const TensorList::Options kNarrow{{DType::f32, DType::f16, DType::bf16}, false, true};

bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

void check_top_k(const std::vector<Segment>& segments, int64_t k, const std::string& what, int multiprocessors = 1) {
  const auto expected = cpu::top_k(one_thread(), segments, k, false);
  const Indices wanted = indices_of(expected, one_thread(), false);
  for (const bool exhaustive : {false, true}) {
    Device device(multiprocessors);
    const auto got = cuda::top_k(device.context(), segments, k, exhaustive);
    CHECK(got.counts() == expected.counts(), ", ", what, ", k = ", k, ", exhaustive ", exhaustive);
    CHECK(same(got.thresholds()[0], expected.thresholds()[0]), ", ", what, ", k = ", k, ": ", got.thresholds()[0],
          " and ", expected.thresholds()[0]);
    CHECK(indices_of(got, device.context(), true) == wanted, ", ", what, ", k = ", k, ", exhaustive ", exhaustive);
  }

  Device device(multiprocessors);
  Memory memory;
  {
    const bool wide = k % 2 == 1;
    void* indices = memory.allocate(k * (wide ? 8 : 4));
    auto* offsets = static_cast<int64_t*>(memory.allocate(8 * (static_cast<int64_t>(segments.size()) + 1)));
    auto* threshold = static_cast<double*>(memory.allocate(8));
    cuda::top_k_packed(device.context(), segments, k, {wide, indices, offsets, threshold});
    CHECK(same(*threshold, expected.thresholds()[0]), ", packed, ", what, ", k = ", k);
    CHECK(offsets[segments.size()] == k, ", packed, ", what);
    for (size_t t = 0; t < segments.size(); ++t) {
      CHECK(offsets[t + 1] - offsets[t] == expected.counts()[t], ", packed, ", what, ", tensor ", t);
      for (int64_t j = 0; j < expected.counts()[t]; ++j) {
        const int64_t at = offsets[t] + j;
        const int64_t index = wide ? static_cast<int64_t*>(indices)[at] : static_cast<int32_t*>(indices)[at];
        CHECK(index == wanted[t][static_cast<size_t>(j)], ", packed, ", what, ", tensor ", t, ", place ", j);
      }
    }
  }
}

int64_t total(const std::vector<Segment>& segments) {
  int64_t n = 0;
  for (const Segment& segment : segments) n += segment.numel;
  return n;
}

void check_every_share(const std::vector<Segment>& segments, const std::string& what) {
  const int64_t n = total(segments);
  for (const int64_t k : {int64_t{0}, int64_t{1}, n / 100, n / 2, n - 1, n}) {
    if (k >= 0 && k <= n) check_top_k(segments, k, what);
  }
}

const std::vector<int64_t> kSizes = {1, 0, 3000, 64, 7, 0, 5002, 2, 20000, 0};

// Values on which selections stumble.
const std::vector<std::pair<const char*, std::function<double(int64_t, double)>>> kKinds = {
    {"gaussian", [](int64_t, double z) { return z; }},
    {"heavy tail", [](int64_t, double z) { return std::pow(z, 9.0); }},
    {"all equal", [](int64_t, double) { return 1.0; }},
    {"all zero", [](int64_t, double) { return 0.0; }},
    {"ascending", [](int64_t i, double) { return static_cast<double>(i); }},
    {"descending", [](int64_t i, double) { return 1e7 - static_cast<double>(i); }},
    {"one outlier", [](int64_t i, double z) { return i == 4321 ? 1e30 : z; }},
    {"subnormal", [](int64_t, double z) { return z * 1e-40; }},
    {"zeros of both signs", [](int64_t, double z) { return z > 0 ? 0.0 : -0.0; }},
    {"infinities", [](int64_t, double z) { return z > 2 ? std::numeric_limits<double>::infinity() : z; }},
    {"17 values", [](int64_t, double z) { return std::round(std::clamp(z * 4, -8.0, 8.0)); }},
    {"mostly zero", [](int64_t, double z) { return z > 1.5 ? z : 0.0; }},
    {"a plateau at the border", [](int64_t, double z) { return std::clamp(z, -2.5, 2.5); }},
    {"periodic", [](int64_t i, double) { return static_cast<double>(i % 256); }},
};

TensorList of_kind(const std::function<double(int64_t, double)>& value, DType dtype, int64_t n) {
  std::mt19937_64 random(static_cast<uint64_t>(n));
  std::normal_distribution<double> normal;
  std::vector<double> all;
  for (int64_t i = 0; i < n; ++i) all.push_back(value(i, normal(random)));
  TensorList made;
  const auto third = static_cast<std::ptrdiff_t>(n / 3);
  made.add(dtype, {all.begin(), all.begin() + third}, 1);
  made.add(dtype, {all.begin() + third, all.end()});
  return made;
}

}  // namespace

TEST(topk_of_small_lists_is_the_cpus_selection) {
  in_every_order([] {
    static uint64_t seed = 0;  // other lists for every order
    for (int turn = 0; turn < 2; ++turn, ++seed) {
      const TensorList mixed = TensorList::normal(kSizes, seed, kContiguous);
      check_every_share(mixed.segments(), "mixed list " + std::to_string(seed));
      const TensorList narrow = TensorList::normal(kSizes, seed, kNarrow);
      check_every_share(narrow.segments(), "list without f64 " + std::to_string(seed));
    }
  });
}

TEST(topk_by_a_sample_is_exact_whatever_the_values) {
  for (const auto& [name, value] : kKinds) {
    const TensorList keys = of_kind(value, DType::f32, 100'003);
    for (const int64_t k : {17, 1'000, 50'000, 100'002}) check_top_k(keys.segments(), k, name);
  }
}

TEST(topk_of_every_dtype_is_exact) {
  in_every_order([] {
    for (const DType dtype : {DType::f64, DType::f16, DType::bf16}) {
      for (const char* name : {"subnormal", "infinities", "a plateau at the border"}) {
        for (const auto& [kind, value] : kKinds) {
          if (std::string(kind) != name) continue;
          const TensorList keys = of_kind(value, dtype, 70'001);
          for (const int64_t k : {701, 35'000}) check_top_k(keys.segments(), k, name);
        }
      }
    }
  });
}

TEST(topk_of_a_million_is_exact_on_several_multiprocessors) {
  const TensorList keys = of_kind(kKinds[0].second, DType::f32, 1'000'000);
  check_top_k(keys.segments(), 10'000, "a million", 3);
}

TEST(topk_compares_a_mixed_list_by_value) {
  TensorList keys = TensorList::normal({30'000, 30'000, 30'000, 30'000}, 5, kContiguous);
  check_top_k(keys.segments(), 1'200, "mixed");
}

TEST(a_sample_that_misleads_costs_passes_and_not_exactness) {
  // All the large keys where the sample does not look: it takes one key of each stretch of n / 8192.
  std::vector<double> values(1'000'000, 1.0);
  std::mt19937_64 random(3);
  for (int64_t i = 0; i < 1'000'000; ++i) values[static_cast<size_t>(i)] = 1.0 + static_cast<double>(random() % 1000);
  for (int64_t i = 500'000; i < 500'120; ++i) values[static_cast<size_t>(i)] = 1e6 + static_cast<double>(i);
  TensorList keys;
  keys.add(DType::f32, values);
  for (const int64_t k : {119, 121}) check_top_k(keys.segments(), k, "hidden");
}

TEST(topk_of_each_tensor_is_topk_of_it_alone) {
  in_every_order([] {
    for (uint64_t seed = 0; seed < 3; ++seed) {
      const TensorList keys = TensorList::normal({1, 0, 40'000, 64, 5'002, 0, 36'000, 3}, seed, kContiguous);
      std::vector<int64_t> k;
      for (const Segment& segment : keys.segments()) k.push_back(segment.numel / (seed == 0 ? 1 : 3));
      const auto expected = cpu::top_k_each(one_thread(), keys.segments(), k);
      Device device(2);
      const auto got = cuda::top_k_each(device.context(), keys.segments(), k);
      CHECK(got.counts() == expected.counts());
      for (size_t t = 0; t < k.size(); ++t) CHECK(same(got.thresholds()[t], expected.thresholds()[t]), ", tensor ", t);
      CHECK(indices_of(got, device.context(), true) == indices_of(expected, one_thread(), false));
    }
  });
}

TEST(hundreds_of_tensors_are_selected_from_in_a_constant_number_of_launches) {
  const std::vector<int64_t> sizes(300, 130);
  const TensorList keys = TensorList::normal(sizes, 1, kNarrow);
  std::vector<int64_t> k(300, 13);
  for (const bool each : {false, true}) {
    Device device;
    shim::take_launches();
    if (each) {
      cuda::top_k_each(device.context(), keys.segments(), k);
    } else {
      cuda::top_k(device.context(), keys.segments(), 3'900, false);
    }
    const int64_t launches = shim::take_launches();
    CHECK(launches <= 20, ", each ", each, ", took ", launches);
  }
}

TEST(a_nan_is_refused_with_tensor_and_count_whatever_k) {
  for (const DType dtype : {DType::f32, DType::f64, DType::f16, DType::bf16}) {
    for (const int64_t n : {10, 40'000}) {
      TensorList keys;
      keys.add(dtype, std::vector<double>(static_cast<size_t>(n), 1.0));
      keys.add(dtype, std::vector<double>(static_cast<size_t>(n), 1.0));
      keys.set(1, 2, std::nan(""));
      keys.set(1, n - 1, -std::nan(""));
      for (const int64_t k : {int64_t{0}, int64_t{5}, 2 * n}) {
        Device device;
        bool refused = false;
        try {
          cuda::top_k(device.context(), keys.segments(), k, false);
        } catch (const BadKeys& bad) {
          refused = bad.segment == 1 && bad.count == 2 && std::string(bad.what_they_are) == "NaN";
        }
        CHECK(refused, ", k = ", k);
        double threshold = 0.0;
        Memory memory;
        cuda::top_k_packed(device.context(), keys.segments(), k,
                           {false, memory.allocate(4 * k), static_cast<int64_t*>(memory.allocate(24)), &threshold});
        CHECK(std::isnan(threshold), ", k = ", k);
      }
    }
  }
}

TEST(no_tensors_and_empty_tensors_are_lists_too) {
  check_top_k({}, 0, "no tensors");
  TensorList keys;
  keys.add(DType::f32, {});
  keys.add(DType::f16, {});
  check_top_k(keys.segments(), 0, "empty tensors");
}

namespace {

void check_random_k(const std::vector<int64_t>& sizes, int64_t k, uint64_t seed, const IndexLists* base) {
  std::vector<Segment> segments(sizes.size());
  int64_t n = 0;
  for (size_t t = 0; t < sizes.size(); ++t) {
    segments[t].numel = sizes[t];
    segments[t].offset = n;
    n += sizes[t];
  }
  const std::vector<IndexList>* lists = base == nullptr ? nullptr : &base->lists();
  const auto expected = cpu::random_k(one_thread(), segments, k, seed, lists);
  Device device(2);
  const auto got = cuda::random_k(device.context(), segments, k, seed, lists);
  CHECK(got.counts() == expected.counts(), ", k = ", k, ", seed ", seed);
  CHECK(indices_of(got, device.context(), true) == indices_of(expected, one_thread(), false), ", k = ", k);
}

}  // namespace

TEST(randomk_is_the_cpus_draw) {
  in_every_order([] {
    for (const int64_t k : {0, 1, 40, 3'000, 28'075, 28'076}) {
      for (const uint64_t seed : {uint64_t{0}, uint64_t{42}, ~uint64_t{0}}) check_random_k(kSizes, k, seed, nullptr);
    }
  });
  check_random_k({400'000, 1, 63, 100'000}, 5'000, 9, nullptr);
}

TEST(randomk_outside_a_base_is_united_with_it) {
  in_every_order([] {
    std::vector<Segment> segments(kSizes.size());
    for (size_t t = 0; t < kSizes.size(); ++t) segments[t].numel = kSizes[t];
    const IndexLists base(segments, 0.3, 4);
    int64_t free = 0;
    for (size_t t = 0; t < kSizes.size(); ++t) free += kSizes[t] - base.lists()[t].count;
    for (const int64_t k : {int64_t{0}, int64_t{1}, int64_t{2'000}, free}) check_random_k(kSizes, k, 8, &base);
  });
}

namespace {

class PackedMemory {
 public:
  PackedMemory(const std::vector<int64_t>& k, size_t segments, bool wide) : wide_(wide) {
    for (const int64_t count : k) indices_ += count * (wide ? 8 : 4);
    offsets_ = 8 * (static_cast<int64_t>(segments) + 1);
    thresholds_ = 8 * static_cast<int64_t>(k.size());
    places_ = {memory_.allocate(indices_), memory_.allocate(offsets_), memory_.allocate(thresholds_)};
  }
  Packed places() const {
    return {wide_, places_[0], static_cast<int64_t*>(places_[1]), static_cast<double*>(places_[2])};
  }
  double threshold() const { return *static_cast<double*>(places_[2]); }
  // Of indices, offsets and thresholds.
  std::string bytes() const {
    return std::string(static_cast<char*>(places_[0]), static_cast<size_t>(indices_)) +
           std::string(static_cast<char*>(places_[1]), static_cast<size_t>(offsets_)) +
           std::string(static_cast<char*>(places_[2]), static_cast<size_t>(thresholds_));
  }

 private:
  Memory memory_;
  bool wide_;
  int64_t indices_ = 0;
  int64_t offsets_ = 0;
  int64_t thresholds_ = 0;
  std::vector<void*> places_;
};

void check_accumulated(const std::vector<int64_t>& sizes, const TensorList::Options& options, ScoreKind kind, bool each,
                       uint64_t seed) {
  const TensorList grads = TensorList::normal(sizes, seed, options);
  std::mt19937_64 random(seed);
  TensorList expected_scores;
  for (const Segment& grad : grads.segments()) {
    std::vector<double> values;
    for (int64_t i = 0; i < grad.numel; ++i) values.push_back(static_cast<double>(random() % 100) / 50.0);
    expected_scores.add(grad.dtype == DType::f64 ? DType::f64 : DType::f32, values, random() % 2 == 0 ? 0 : 1);
  }
  TensorList scores = expected_scores.copy();
  std::vector<int64_t> k;
  for (const int64_t size : sizes) k.push_back(size / 10);
  if (!each) k = {total(grads.segments()) / 10};
  const bool wide = seed % 2 == 1;
  PackedMemory expected(k, sizes.size(), wide);
  cpu::accumulate_top_k_packed(one_thread(), expected_scores.segments(), grads.segments(), kind, 0.3, k, each,
                               expected.places());
  Device device(2);
  PackedMemory got(k, sizes.size(), wide);
  cuda::accumulate_top_k_packed(device.context(), scores.segments(), grads.segments(), kind, 0.3, k, each,
                                got.places());
  CHECK(scores.same_bits(expected_scores), ", each ", each, ", seed ", seed);
  CHECK(got.bytes() == expected.bytes(), ", each ", each, ", seed ", seed);
}

}  // namespace

TEST(a_score_accumulated_and_selected_by_in_one_pass_is_the_two_after_each_other) {
  in_every_order([] {
    for (const ScoreKind kind : {ScoreKind::grad, ScoreKind::abs_grad, ScoreKind::fisher}) {
      for (const bool each : {false, true}) {
        check_accumulated(kSizes, kContiguous, kind, each, 1);
        check_accumulated({40'000, 3, 35'000}, kNarrow, kind, each, 2);
      }
    }
  });
}

TEST(plateaus_are_accumulated_once) {
  // All scores equal: the sample gives a plateau at once, and the pass over it is the one that writes.
  for (const bool each : {false, true}) {
    TensorList grads;
    grads.add(DType::f32, std::vector<double>(50'000, 2.0));
    grads.add(DType::bf16, std::vector<double>(40'001, 2.0));
    TensorList scores;
    scores.add(DType::f32, std::vector<double>(50'000, 1.0));
    scores.add(DType::f32, std::vector<double>(40'001, 1.0));
    Device device;
    const std::vector<int64_t> k = each ? std::vector<int64_t>{10, 20} : std::vector<int64_t>{60'000};
    const PackedMemory out(k, 2, false);
    cuda::accumulate_top_k_packed(device.context(), scores.segments(), grads.segments(), ScoreKind::grad, 0.5, k, each,
                                  out.places());
    for (int64_t t = 0; t < 2; ++t) {
      for (int64_t i = 0; i < 40'001; ++i) CHECK(scores.get(t, i) == 2.0, ", tensor ", t, ", element ", i);
    }
  }
}

TEST(a_score_that_overflows_makes_the_threshold_nan) {
  TensorList grads;
  grads.add(DType::f32, {1.0, 2.0, std::numeric_limits<double>::infinity(), 1.0});
  TensorList scores;
  scores.add(DType::f32, {0.0, 0.0, 0.0, 0.0});
  Device device;
  const PackedMemory out({2}, 1, false);
  cuda::accumulate_top_k_packed(device.context(), scores.segments(), grads.segments(), ScoreKind::grad, 1.0, {2}, false,
                                out.places());
  CHECK(std::isnan(out.threshold()));
}

}  // namespace fgunlearn::test
