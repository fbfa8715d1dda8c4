#include "cpu/perturb.h"

#include <algorithm>
#include <cmath>

#include "cpu/blocks.h"
#include "cpu/coordinates.h"
#include "cpu/isa/table.h"

namespace fgunlearn::cpu {

namespace {

template <typename T>
double as_double(T x) {
  return static_cast<double>(Convert<T>::load(x));
}

template <typename T>
T from_double(double x) {
  return Convert<T>::store(static_cast<typename Convert<T>::accumulate_t>(x));
}

// The draws are made tile by tile, so that they stay in the first-level cache until they are used.
template <typename T, typename Place, typename Index>
void perturb_piece(const Segment& segment, const Index* index, int64_t count, const Perturbation& how, uint64_t seed,
                   Stream stream) {
  T* x = static_cast<T*>(segment.data);
  Place place(segment.layout);
  if (how.draw == Draw::none && how.keep == 0.0) {  // a constant: nothing is read
    const T constant = from_double<T>(perturbed(how, 0.0, 0.0));
    for (int64_t j = 0; j < count; ++j) x[place.at(index[j])] = constant;
    return;
  }
  constexpr int64_t tile = 512;
  int64_t chosen[tile];
  double drawn[tile] = {};
  for (int64_t begin = 0; begin < count; begin += tile) {
    const int64_t here = std::min(tile, count - begin);
    const Index* at = index + begin;
    if (how.draw != Draw::none) {
      std::copy_n(at, here, chosen);
      isa().draw(how.draw, seed, static_cast<uint32_t>(stream), segment.offset, chosen, here, drawn);
    }
    if (how.keep == 0.0) {
      for (int64_t j = 0; j < here; ++j) x[place.at(at[j])] = from_double<T>(perturbed(how, 0.0, drawn[j]));
    } else {
      for (int64_t j = 0; j < here; ++j) {
        T& coordinate = x[place.at(at[j])];
        coordinate = from_double<T>(perturbed(how, as_double(coordinate), drawn[j]));
      }
    }
  }
}

}  // namespace

void perturb(const Executor& executor, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
             const std::vector<Perturbation>& how, uint64_t seed, Stream stream) {
  const std::vector<Piece> pieces = cut(indices);
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const Piece& piece = pieces[p];
    const Segment& segment = segments[piece.segment];
    dispatch(segment.dtype, [&](auto tag) {
      using T = decltype(tag);
      with_places(indices[piece.segment], segment.layout.ndim == 0, [&](const auto* index, auto place_tag) {
        using Place = typename decltype(place_tag)::type;
        perturb_piece<T, Place>(segment, index + piece.begin, piece.end - piece.begin, how[piece.segment], seed,
                                stream);
      });
    });
  });
}

void ascend(const Executor& executor, const std::vector<Segment>& segments, const std::vector<Segment>& grads,
            const std::vector<IndexList>& indices, double rate) {
  const std::vector<Piece> pieces = cut(indices);
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const Piece& piece = pieces[p];
    const Segment& segment = segments[piece.segment];
    const Segment& grad = grads[piece.segment];
    const bool contiguous = segment.layout.ndim == 0 && grad.layout.ndim == 0;
    dispatch(segment.dtype, [&](auto tag) {
      using T = decltype(tag);
      using A = typename Convert<T>::accumulate_t;
      T* x = static_cast<T*>(segment.data);
      const T* g = static_cast<const T*>(grad.data);
      with_places(indices[piece.segment], contiguous, [&](const auto* index, auto place_tag) {
        typename decltype(place_tag)::type place(segment.layout);
        typename decltype(place_tag)::type of_grad(grad.layout);
        for (int64_t j = piece.begin; j < piece.end; ++j) {
          T& coordinate = x[place.at(index[j])];
          const A step = static_cast<A>(rate) * Convert<T>::load(g[of_grad.at(index[j])]);
          coordinate = Convert<T>::store(Convert<T>::load(coordinate) + step);
        }
      });
    });
  });
}

void rms(const Executor& executor, const std::vector<Segment>& segments, double* out) {
  const std::vector<Piece> pieces =
      cut(static_cast<int64_t>(segments.size()), kBlock, [&](int64_t t) { return segments[t].numel; });
  std::vector<double> partial(pieces.size());
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const Piece& piece = pieces[p];
    const Segment& segment = segments[piece.segment];
    dispatch(segment.dtype, [&](auto tag) {
      const auto* x = static_cast<const decltype(tag)*>(segment.data);
      // Eight sums side by side: the compiler may not reorder one sum of doubles, and would wait for each addition.
      double sums[8] = {};
      int64_t i = piece.begin;
      for (; i + 8 <= piece.end; i += 8) {
        for (int lane = 0; lane < 8; ++lane) {
          const double value = as_double(x[i + lane]);
          sums[lane] += value * value;
        }
      }
      for (; i < piece.end; ++i) sums[0] += as_double(x[i]) * as_double(x[i]);
      double total = 0.0;
      for (double sum : sums) total += sum;
      partial[p] = total;
    });
  });
  std::fill_n(out, segments.size(), 0.0);
  for (size_t p = 0; p < pieces.size(); ++p) out[pieces[p].segment] += partial[p];
  for (size_t t = 0; t < segments.size(); ++t) {
    if (segments[t].numel > 0) out[t] = std::sqrt(out[t] / static_cast<double>(segments[t].numel));
  }
}

}  // namespace fgunlearn::cpu
