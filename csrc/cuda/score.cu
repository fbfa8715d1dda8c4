#include "cuda/score.h"

#include <algorithm>
#include <type_traits>

#include "cuda/dense.h"
#include "cuda/dispatch.h"
#include "cuda/nvtx.h"
#include "cuda/score_rule.h"
#include "cuda/warp.h"

namespace fgunlearn::cuda {

namespace {

struct Accumulated {
  Dense at;  // of the score, whose tiles are walked
  void* score;
  const void* grad;
  DType grad_dtype;
  bool vectors;  // both begin where vectors of theirs may
};

// As many gradients as there are scores in 16 bytes.
template <int kBytes>
using Words = std::conditional_t<kBytes == 16, uint4, uint2>;

template <typename S, typename G>
struct Fetched {
  uint4 scores;
  Words<kVectorLanes<S> * sizeof(G)> grads;
};

template <typename S, typename G>
struct Pair {
  S score;
  G grad;
};

template <typename S, typename G>
__device__ void accumulate(S* s, const G* g, int32_t count, bool vectors, ScoreKind kind, S weight) {
  constexpr int lanes = kVectorLanes<S>;
  const auto updated = [&](S score, G grad) {
    return scored(score, static_cast<S>(Convert<G>::load(grad)), kind, weight);
  };
  int32_t done = 0;
  if (vectors) {
    auto* scores = reinterpret_cast<uint4*>(s);
    const auto* grads = reinterpret_cast<const decltype(Fetched<S, G>::grads)*>(g);
    for_each_in_flight<2>(
        count / lanes, [&](int32_t i) { return Fetched<S, G>{scores[i], grads[i]}; },
        [&](int32_t i, const Fetched<S, G>& fetched) {
          struct Grads {
            G lane[lanes];
          };
          auto score = bits::cast<Lanes<S>>(fetched.scores);
          const auto grad = bits::cast<Grads>(fetched.grads);
#pragma unroll
          for (int l = 0; l < lanes; ++l) score.lane[l] = updated(score.lane[l], grad.lane[l]);
          scores[i] = bits::cast<uint4>(score);
        });
    done = count / lanes * lanes;
  }
  for_each_in_flight<4>(
      count - done, [&](int32_t i) { return Pair<S, G>{s[done + i], g[done + i]}; },
      [&](int32_t i, const Pair<S, G>& pair) { s[done + i] = updated(pair.score, pair.grad); });
}

__global__ void __launch_bounds__(kThreads, kDenseBlocks)
    accumulate_kernel(DenseTable<Accumulated> table, ScoreKind kind, double weight) {
  for_each_tile(table, [&](const Accumulated& one, const Tile& tile) {
    device_dispatch(one.grad_dtype, [&](auto tag) {
      using G = decltype(tag);
      using S = typename Convert<G>::accumulate_t;
      accumulate(in_global<S>(one.score) + tile.begin, in_global<G>(one.grad) + tile.begin, tile.count, one.vectors,
                 kind, static_cast<S>(weight));
    });
  });
}

char* element(const Segment& segment, int64_t index) {
  return static_cast<char*>(segment.data) + index * item_size(segment.dtype);
}

// One entry, or two where vectors fit from a few elements on: tensors that are views into flat buffers begin anywhere.
void add_entries(const Segment& score, const Segment& grad, std::vector<Accumulated>& entries) {
  const int64_t lanes = kVectorBytes / item_size(score.dtype);
  const auto address = [](const Segment& segment, int64_t index) {
    return reinterpret_cast<uintptr_t>(element(segment, index));
  };
  int64_t head = 0;
  while (head < lanes && address(score, head) % kVectorBytes != 0) ++head;
  const auto vector_of_grads = static_cast<uintptr_t>(lanes * item_size(grad.dtype));
  const bool alike = head < lanes && address(grad, head) % vector_of_grads == 0;
  head = alike ? std::min(head, score.numel) : score.numel;
  const auto add = [&](int64_t begin, int64_t end, bool vectors) {
    if (begin == end) return;
    entries.push_back(
        {{end - begin, 0, score.dtype}, element(score, begin), element(grad, begin), grad.dtype, vectors});
  };
  add(0, head, false);
  add(head, score.numel, true);
}

// Counts values by magnitude, as integers: those that reach `least` carry into the sign bit when 2^(bits - 1) - least
// is added. Two 16-bit values lie in one word and don't carry into each other.
template <typename T, bool kNanOnly>
struct Counter {
  using Word = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;
  static constexpr int bits = 8 * static_cast<int>(sizeof(T));
  static constexpr Word ones = sizeof(T) == 2 ? Word{0x00010001u} : Word{1};  // one in each value's place
  static constexpr Word sign = Word{1} << (bits - 1);
  static constexpr Word infinity = std::is_same_v<T, double>  ? static_cast<Word>(0x7ff0000000000000ull)
                                   : std::is_same_v<T, float> ? Word{0x7f800000u}
                                   : std::is_same_v<T, f16_t> ? Word{0x7c00u}
                                                              : Word{0x7f80u};
  static constexpr Word least = infinity + (kNanOnly ? 1 : 0);
  static_assert(kTileBytes / kThreads < 0xffff, "a thread's count in one tile must fit in 16 bits");

  __device__ void add(Word word) {
    found += (((word & ones * (sign - 1)) + ones * (sign - least)) >> (bits - 1)) & ones;
  }
  __device__ int32_t total() const {
    if constexpr (sizeof(T) == 2) return static_cast<int32_t>((found & 0xffffu) + (found >> 16));
    return static_cast<int32_t>(found);
  }

  Word found = 0;
};

template <bool kNanOnly, typename T>
__device__ int32_t count_in_tile(const T* x, int32_t count) {
  using One = Counter<T, kNanOnly>;
  One counter;
  int32_t done = 0;
  if (is_vector_aligned(x)) {
    const auto* vectors = reinterpret_cast<const uint4*>(x);
    for_each_in_flight<4>(
        count / kVectorLanes<T>, [&](int32_t i) { return vectors[i]; },
        [&](int32_t, const uint4& vector) {
          struct Split {
            typename One::Word word[kVectorBytes / sizeof(typename One::Word)];
          };
          const auto split = bits::cast<Split>(vector);
          for (const auto word : split.word) counter.add(word);
        });
    done = count / kVectorLanes<T> * kVectorLanes<T>;
  }
  using Bits = std::conditional_t<sizeof(T) == 2, uint16_t, typename One::Word>;
  for_each_in_flight<4>(
      count - done, [&](int32_t i) { return bits::cast<Bits>(x[done + i]); },
      [&](int32_t, Bits value) { counter.add(value); });
  return counter.total();
}

struct Counted {
  Dense at;
  const void* data;
};

template <bool kNanOnly>
__global__ void __launch_bounds__(kThreads, kDenseBlocks) count_kernel(DenseTable<Counted> table, int64_t* counts) {
  for_each_tile(table, [&](const Counted& one, const Tile& tile) {
    int32_t found = 0;
    device_dispatch(one.at.dtype, [&](auto tag) {
      using T = decltype(tag);
      found = count_in_tile<kNanOnly>(in_global<T>(one.data) + tile.begin, tile.count);
    });
    found = warp_sum(found);
    if (lane_id() == 0 && found != 0) {
      atomicAdd(reinterpret_cast<unsigned long long*>(counts + tile.tensor), static_cast<unsigned long long>(found));
    }
  });
}

template <bool kNanOnly>
void count(const Context& context, const std::vector<Segment>& segments, int64_t* counts) {
  if (segments.empty()) return;
  check(cudaMemsetAsync(counts, 0, segments.size() * sizeof(int64_t), context.stream()), "cudaMemsetAsync");
  std::vector<Counted> entries;
  entries.reserve(segments.size());
  for (const Segment& segment : segments) entries.push_back({{segment.numel, 0, segment.dtype}, segment.data});
  const auto table = dense_table(context, entries);
  launch(context, count_kernel<kNanOnly>, dense_grid(context, table), kThreads, table, counts);
}

}  // namespace

void accumulate_scores(const Context& context, const std::vector<Segment>& scores, const std::vector<Segment>& grads,
                       ScoreKind kind, double weight) {
  const Range range("fgunlearn::accumulate_scores");
  std::vector<Accumulated> entries;
  entries.reserve(scores.size());
  for (size_t t = 0; t < scores.size(); ++t) add_entries(scores[t], grads[t], entries);
  const auto table = dense_table(context, entries);
  launch(context, accumulate_kernel, dense_grid(context, table), kThreads, table, kind, weight);
}

void count_nonfinite(const Context& context, const std::vector<Segment>& segments, int64_t* counts) {
  const Range range("fgunlearn::count_nonfinite");
  count<false>(context, segments, counts);
}

void count_nan(const Context& context, const std::vector<Segment>& segments, int64_t* counts) {
  const Range range("fgunlearn::count_nan");
  count<true>(context, segments, counts);
}

}  // namespace fgunlearn::cuda
