#include "cpu/perturb.h"

#include <algorithm>
#include <cmath>

#include "cpu/blocks.h"
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

}  // namespace

void perturb(const Executor& executor, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
             const std::vector<Perturbation>& how, uint64_t seed, Stream stream) {
  const std::vector<Piece> pieces = cut(indices);
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const Piece& piece = pieces[p];
    const Segment& segment = segments[piece.segment];
    const IndexList& index = indices[piece.segment];
    const Perturbation& one = how[piece.segment];
    dispatch(segment.dtype, [&](auto tag) {
      using T = decltype(tag);
      T* x = static_cast<T*>(segment.data);
      LayoutCursor place(segment.layout);
      constexpr int64_t tile = 512;
      int64_t chosen[tile];
      double drawn[tile] = {};
      for (int64_t begin = piece.begin; begin < piece.end; begin += tile) {
        const int64_t count = std::min(tile, piece.end - begin);
        for (int64_t j = 0; j < count; ++j) chosen[j] = index[begin + j];
        if (one.draw != Draw::none) {
          isa().draw(one.draw, seed, static_cast<uint32_t>(stream), segment.offset, chosen, count, drawn);
        }
        for (int64_t j = 0; j < count; ++j) {
          T& coordinate = x[place.at(chosen[j])];
          coordinate = from_double<T>(perturbed(one, as_double(coordinate), drawn[j]));
        }
      }
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
    const IndexList& index = indices[piece.segment];
    dispatch(segment.dtype, [&](auto tag) {
      using T = decltype(tag);
      using A = typename Convert<T>::accumulate_t;
      T* x = static_cast<T*>(segment.data);
      const T* g = static_cast<const T*>(grad.data);
      LayoutCursor place(segment.layout);
      LayoutCursor of_grad(grad.layout);
      for (int64_t j = piece.begin; j < piece.end; ++j) {
        T& coordinate = x[place.at(index[j])];
        const A step = static_cast<A>(rate) * Convert<T>::load(g[of_grad.at(index[j])]);
        coordinate = Convert<T>::store(Convert<T>::load(coordinate) + step);
      }
    });
  });
}

std::vector<double> rms(const Executor& executor, const std::vector<Segment>& segments) {
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
  std::vector<double> result(segments.size(), 0.0);
  for (size_t p = 0; p < pieces.size(); ++p) result[pieces[p].segment] += partial[p];
  for (size_t t = 0; t < segments.size(); ++t) {
    if (segments[t].numel > 0) result[t] = std::sqrt(result[t] / static_cast<double>(segments[t].numel));
  }
  return result;
}

}  // namespace fgunlearn::cpu
