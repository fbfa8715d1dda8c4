// Where the keys of a selection come from: memory, Philox, or a score that is being written.
//
// A source has key_at<Key>(segment, element) before the pass, stored_key_at once the element was read, and
// visit(segment, low, high, body), which calls body(reader) once per tile. reader.read(begin) gives, for the 1,024
// positions from `begin` on, one word per lane: bits of the 32 positions of word reader.word(). Positions before the
// first element or behind the last may have any bit set.
#pragma once

#include "core/philox.h"
#include "core/score.h"
#include "cuda/dispatch.h"
#include "cuda/score_rule.h"
#include "cuda/select_patterns.h"
#include "cuda/select_plan.h"

namespace fgunlearn::cuda {

// Reads vectors of 16 bytes: lane l of vector v has the elements 32 V v + V l to + V - 1, V to a vector, so that a warp
// reads 512 bytes at a time, and a transpose among the lanes puts the bits in order. Load fills an
// array of vectors, at most Load::kInFlight, from a position on.
template <typename T, typename Load>
class VectorReader {
 public:
  template <typename Key>
  __device__ VectorReader(const Load& load, Key low, Key high, bool finite_only)
      : load_(load), limits_(low, high, finite_only) {}

  __device__ LaneBits read(int64_t begin) const {
    constexpr int per_vector = kPerVector<T>;
    constexpr int vectors = 32 / per_vector;
    constexpr int batch = vectors < Load::kInFlight ? vectors : Load::kInFlight;
    LaneBits bits;
#pragma unroll
    for (int first = 0; first < vectors; first += batch) {
      uint4 vector[batch];
      load_(begin + int64_t{kWarp} * per_vector * first + per_vector * lane_id(), vector);
#pragma unroll
      for (int v = 0; v < batch; ++v) compare<T>(vector[v], limits_, per_vector * (first + v), bits);
    }
    bits.above = transpose_blocks<per_vector>(bits.above);
    bits.at_least = transpose_blocks<per_vector>(bits.at_least);
    return bits;
  }

  __device__ static int word() {
    constexpr int per_vector = kPerVector<T>;
    constexpr int team = 32 / per_vector;
    return (lane_id() % team) * per_vector + lane_id() / team;
  }

 private:
  const Load& load_;
  Limits<T> limits_;
};

template <typename T>
__device__ inline uint4 load_partial(const T* data, int64_t element, int64_t numel) {
  union {
    uint4 vector;
    T elements[kPerVector<T>];
  } made{};
#pragma unroll
  for (int i = 0; i < kPerVector<T>; ++i) {
    if (element + i >= 0 && element + i < numel) made.elements[i] = data[element + i];
  }
  return made.vector;
}

// Vectors of one segment in memory. Positions are aligned, so only a tensor's first and last vector are read in parts.
template <typename T>
struct MemoryLoad {
  static constexpr int kInFlight = 8;
  const KeySegment& segment;

  template <int kBatch>
  __device__ void operator()(int64_t position, uint4 (&vector)[kBatch]) const {
    constexpr int64_t stride = int64_t{kWarp} * kPerVector<T>;
    const T* data = in_global<T>(segment.data);
    const int64_t element = position - segment.lead;
    const bool whole = element >= 0 && element + stride * (kBatch - 1) + kPerVector<T> <= segment.numel;
    if (whole) {
#pragma unroll
      for (int v = 0; v < kBatch; ++v) vector[v] = *reinterpret_cast<const uint4*>(data + element + stride * v);
    } else {
#pragma unroll
      for (int v = 0; v < kBatch; ++v) vector[v] = load_partial<T>(data, element + stride * v, segment.numel);
    }
  }
};

struct MemoryKeys {
  bool finite_only;

  template <typename Key>
  __device__ Key key_at(const KeySegment& segment, int64_t element) const {
    Key key = 0;
    device_dispatch(segment.dtype, [&](auto tag) {
      using T = decltype(tag);
      if constexpr (sizeof(T) <= sizeof(Key)) key = key_of<Key>(in_global<T>(segment.data)[element]);
    });
    return key;
  }

  template <typename Key>
  __device__ Key stored_key_at(const KeySegment& segment, int64_t element) const {
    return key_at<Key>(segment, element);
  }

  template <typename Key, typename Body>
  __device__ void visit(const KeySegment& segment, Key low, Key high, Body&& body) const {
    device_dispatch(segment.dtype, [&](auto tag) {
      using T = decltype(tag);
      if constexpr (sizeof(T) <= sizeof(Key)) {
        const MemoryLoad<T> load{segment};
        body(VectorReader<T, MemoryLoad<T>>(load, low, high, finite_only));
      }
    });
  }
};

// Adds the last batch to the vectors of a score as they are read, and writes them: s += weight * f(g).
template <typename S, typename G>
struct ScoredLoad {
  static constexpr int kInFlight = 4;  // of the score, and as many of the gradient
  const KeySegment& segment;
  ScoreKind kind;
  S weight;

  template <int kBatch>
  __device__ void operator()(int64_t position, uint4 (&vector)[kBatch]) const {
    constexpr int per_vector = kPerVector<S>;
    constexpr int64_t stride = int64_t{kWarp} * per_vector;
    S* scores = in_global<S>(const_cast<void*>(segment.data));
    const G* grads = in_global<G>(segment.grad);
    const int64_t element = position - segment.lead;
    const bool whole = element >= 0 && element + stride * (kBatch - 1) + per_vector <= segment.numel;
    union Scores {
      uint4 vector;
      S elements[per_vector];
    };
    union Grads {
      unsigned char bytes[per_vector * sizeof(G)];
      uint4 four;
      uint2 two;
      G elements[per_vector];
    };
    constexpr int grad_bytes = static_cast<int>(per_vector * sizeof(G));
    const bool aligned = whole && reinterpret_cast<uintptr_t>(grads + element) % grad_bytes == 0;
    if (!aligned) {  // single elements; all are asked for before the first is written
      const int64_t numel = segment.numel;
      S score[kBatch * per_vector] = {};
      S grad[kBatch * per_vector] = {};
#pragma unroll
      for (int e = 0; e < kBatch * per_vector; ++e) {
        const int64_t at = element + stride * (e / per_vector) + e % per_vector;
        if (at < 0 || at >= numel) continue;
        score[e] = scores[at];
        grad[e] = static_cast<S>(Convert<G>::load(grads[at]));
      }
#pragma unroll
      for (int v = 0; v < kBatch; ++v) {
        Scores made{};
#pragma unroll
        for (int i = 0; i < per_vector; ++i) {
          const int64_t at = element + stride * v + i;
          if (at < 0 || at >= numel) continue;
          made.elements[i] = scored(score[v * per_vector + i], grad[v * per_vector + i], kind, weight);
          scores[at] = made.elements[i];
        }
        vector[v] = made.vector;
      }
      return;
    }
    Grads grad[kBatch];
#pragma unroll
    for (int v = 0; v < kBatch; ++v) {
      vector[v] = *reinterpret_cast<const uint4*>(scores + element + stride * v);
      if constexpr (grad_bytes == 16) {
        grad[v].four = *reinterpret_cast<const uint4*>(grads + element + stride * v);
      } else {
        static_assert(grad_bytes == 8);
        grad[v].two = *reinterpret_cast<const uint2*>(grads + element + stride * v);
      }
    }
#pragma unroll
    for (int v = 0; v < kBatch; ++v) {
      Scores made{vector[v]};
#pragma unroll
      for (int i = 0; i < per_vector; ++i) {
        made.elements[i] =
            scored(made.elements[i], static_cast<S>(Convert<G>::load(grad[v].elements[i])), kind, weight);
      }
      vector[v] = made.vector;
      *reinterpret_cast<uint4*>(scores + element + stride * v) = made.vector;
    }
  }
};

struct ScoredKeys {
  ScoreKind kind;
  double weight;

  // Calls body with values of the score's type and of the gradient's: f64 of f64, f32 of the others.
  template <typename Key, typename Body>
  __device__ static void with_types(const KeySegment& segment, Body&& body) {
    device_dispatch(segment.grad_dtype, [&](auto tag) {
      using G = decltype(tag);
      using S = typename Convert<G>::accumulate_t;
      if constexpr (sizeof(S) <= sizeof(Key)) body(S{}, G{});
    });
  }

  template <typename Key>
  __device__ Key stored_key_at(const KeySegment& segment, int64_t element) const {
    return MemoryKeys{true}.key_at<Key>(segment, element);
  }

  // The key that the score is going to have.
  template <typename Key>
  __device__ Key key_at(const KeySegment& segment, int64_t element) const {
    Key key = 0;
    with_types<Key>(segment, [&](auto score_tag, auto grad_tag) {
      using S = decltype(score_tag);
      using G = decltype(grad_tag);
      const S grad = static_cast<S>(Convert<G>::load(in_global<G>(segment.grad)[element]));
      key = key_of<Key>(scored(in_global<S>(segment.data)[element], grad, kind, static_cast<S>(weight)));
    });
    return key;
  }

  template <typename Key, typename Body>
  __device__ void visit(const KeySegment& segment, Key low, Key high, Body&& body) const {
    with_types<Key>(segment, [&](auto score_tag, auto grad_tag) {
      using S = decltype(score_tag);
      using Load = ScoredLoad<S, decltype(grad_tag)>;
      const Load load{segment, kind, static_cast<S>(weight)};
      body(VectorReader<S, Load>(load, low, high, true));
    });
  }
};

// Random-k's keys: nothing is read. The bracket is compared with the high 32 bits of the 64-bit keys.
struct RandomKeys {
  uint64_t seed;

  class Reader {
   public:
    __device__ Reader(uint64_t seed, int64_t origin, uint64_t low, uint64_t high)
        : seed_(seed),
          origin_(origin),
          low_(static_cast<uint32_t>(low >> 32)),
          high_(static_cast<uint32_t>(high >> 32)) {}

    // 256 consecutive counters serve the chunk. One of them gives four words, 16 indices apart; a ballot over one word
    // of 32 counters is thus 16 bits of each of two groups of 64 indices.
    __device__ LaneBits read(int64_t begin) const {
      const int64_t first_counter = (origin_ + begin) / kPhiloxGroup * kPhiloxLanes;
      LaneBits bits;
      for (int round = 0; round < 8; ++round) {
        const Philox4 random =
            philox4x32(seed_, Stream::select_high, static_cast<uint64_t>(first_counter + kWarp * round + lane_id()));
        uint32_t above[4];
        uint32_t at_least[4];
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          const uint32_t key = random.word[w] & 0x7fffffffu;
          above[w] = __ballot_sync(kAllLanes, key >= high_);
          at_least[w] = __ballot_sync(kAllLanes, key >= low_);
        }
        if (lane_id() / 4 == round) {
          bits.above = word_of(above[0], above[1], above[2], above[3]);
          bits.at_least = word_of(at_least[0], at_least[1], at_least[2], at_least[3]);
        }
      }
      return bits;
    }

    __device__ static int word() { return lane_id(); }

   private:
    // Word lane % 4 of the four that a round fills.
    __device__ static uint32_t word_of(uint32_t ballot0, uint32_t ballot1, uint32_t ballot2, uint32_t ballot3) {
      const bool second_half = (lane_id() & 1) != 0;
      const bool second_group = (lane_id() & 2) != 0;
      const uint32_t low = second_half ? ballot2 : ballot0;
      const uint32_t high = second_half ? ballot3 : ballot1;
      return second_group ? (low >> 16) | (high & 0xffff0000u) : (low & 0xffffu) | (high << 16);
    }

    uint64_t seed_;
    int64_t origin_;  // global index of position 0, a multiple of 64
    uint32_t low_;
    uint32_t high_;
  };

  template <typename Key>
  __device__ Key key_at(const KeySegment& segment, int64_t element) const {
    static_assert(sizeof(Key) == 8);
    return random_key(seed, segment.offset + element);
  }

  template <typename Key>
  __device__ Key stored_key_at(const KeySegment& segment, int64_t element) const {
    return key_at<Key>(segment, element);
  }

  template <typename Key, typename Body>
  __device__ void visit(const KeySegment& segment, Key low, Key high, Body&& body) const {
    body(Reader(seed, segment.offset - segment.lead, low, high));
  }
};

}  // namespace fgunlearn::cuda
