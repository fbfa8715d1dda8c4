#include "cpu/update.h"

#include <algorithm>
#include <type_traits>

#include "cpu/blocks.h"
#include "cpu/coordinates.h"

namespace fgunlearn::cpu {

namespace {

// Coordinates are fetched tile by tile: the rule then runs over contiguous values, many lanes at a time. Many loads are
// under way at once without software prefetching, which gained nothing when measured.
constexpr int64_t kTile = 64;

// One piece of one tensor: where its values lie.
template <typename T, typename Place, typename Index>
class Walk {
 public:
  using C = Convert<T>;
  using A = typename C::accumulate_t;

  Walk(const Segment& param, const Segment& grad, const Index* index, const Piece& piece, const StepOptions& options,
       double step)
      : param_(param),
        grad_(grad),
        x_(static_cast<T*>(param.data)),
        g_(static_cast<const T*>(grad.data)),
        index_(index),
        piece_(piece),
        options_(options),
        step_(step) {}

  // Calls body(j, count, x, g) tile by tile: the parameters x of coordinates j, j + 1, ... are to be replaced.
  template <typename Body>
  void operator()(Body&& body) const {
    Place to_read(param_.layout);
    Place to_write(param_.layout);
    Place of_grad(grad_.layout);
    A x[kTile];
    A g[kTile];
    for (int64_t begin = piece_.begin; begin < piece_.end; begin += kTile) {
      const int64_t count = std::min(kTile, piece_.end - begin);
      const Index* at = index_ + begin;
      for (int64_t i = 0; i < count; ++i) x[i] = C::load(x_[to_read.at(at[i])]);
      if (options_.gathered) {
        for (int64_t i = 0; i < count; ++i) g[i] = C::load(g_[begin + i]);
      } else {
        for (int64_t i = 0; i < count; ++i) g[i] = C::load(g_[of_grad.at(at[i])]);
      }
      body(begin, count, x, g);
      store(at, count, x, to_write);
    }
  }

 private:
  void store(const Index* at, int64_t count, const A* x, Place& place) const {
    if constexpr (std::is_same_v<T, bf16_t>) {
      if (options_.stochastic) {
        for (int64_t i = 0; i < count; ++i) {
          x_[place.at(at[i])] = to_bf16_at_random(x[i], rounding_noise(options_.seed, step_, param_.offset + at[i]));
        }
        return;
      }
    }
    for (int64_t i = 0; i < count; ++i) x_[place.at(at[i])] = C::store(x[i]);
  }

  const Segment& param_;
  const Segment& grad_;
  T* x_;
  const T* g_;
  const Index* index_;
  const Piece& piece_;
  const StepOptions& options_;
  double step_;
};

// Calls body(t, walk) with a Walk over each piece, t the number of its tensor.
template <typename Body>
void for_each_walk(const Executor& executor, const std::vector<Segment>& params, const std::vector<Segment>& grads,
                   const std::vector<IndexList>& indices, const std::vector<Number>& steps, const StepOptions& options,
                   Body&& body) {
  if (options.found_inf() != 0.0) return;
  const std::vector<Piece> pieces = cut(indices);
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const Piece& piece = pieces[p];
    const int64_t t = piece.segment;
    const bool contiguous = params[t].layout.ndim == 0 && (options.gathered || grads[t].layout.ndim == 0);
    const double step = steps.empty() ? 0.0 : steps[t]();
    dispatch(params[t].dtype, [&](auto tag) {
      with_places(indices[t], contiguous, [&](const auto* index, auto place) {
        using Index = std::remove_cv_t<std::remove_pointer_t<decltype(index)>>;
        body(t, step,
             Walk<decltype(tag), typename decltype(place)::type, Index>(params[t], grads[t], index, piece, options,
                                                                        step));
      });
    });
  });
}

template <typename A>
A* state(const std::vector<Segment>& states, int64_t t) {
  return states.empty() ? nullptr : static_cast<A*>(states[t].data);
}

}  // namespace

void sgd(const Executor& executor, const std::vector<Segment>& params, const std::vector<Segment>& grads,
         const std::vector<IndexList>& indices, const std::vector<Segment>& buffers, const std::vector<int64_t>& first,
         const std::vector<Number>& steps, const Sgd& sgd, const StepOptions& options) {
  for_each_walk(executor, params, grads, indices, steps, options, [&](int64_t t, double, const auto& walk) {
    using A = typename std::remove_cvref_t<decltype(walk)>::A;
    const SgdRule<A> rule(sgd, options);
    A* buffer = state<A>(buffers, t);
    const bool is_first = first[t] != 0;
    if (buffer == nullptr) {
      walk([&](int64_t, int64_t count, A* x, const A* g) {
        for (int64_t i = 0; i < count; ++i) x[i] = rule.plain(x[i], g[i]);
      });
    } else {
      walk([&](int64_t j, int64_t count, A* x, const A* g) {
        for (int64_t i = 0; i < count; ++i) x[i] = rule.with_momentum(x[i], g[i], buffer[j + i], is_first);
      });
    }
  });
}

void adam(const Executor& executor, const std::vector<Segment>& params, const std::vector<Segment>& grads,
          const std::vector<IndexList>& indices, const std::vector<Segment>& first_moments,
          const std::vector<Segment>& second_moments, const std::vector<Segment>& largest,
          const std::vector<Number>& steps, const Adam& adam, const StepOptions& options) {
  for_each_walk(executor, params, grads, indices, steps, options, [&](int64_t t, double step, const auto& walk) {
    using A = typename std::remove_cvref_t<decltype(walk)>::A;
    const AdamRule<A> rule(adam, options, step);
    A* m = state<A>(first_moments, t);
    A* v = state<A>(second_moments, t);
    A* most = state<A>(largest, t);
    if (most == nullptr) {
      walk([&](int64_t j, int64_t count, A* x, const A* g) {
        for (int64_t i = 0; i < count; ++i) x[i] = rule.template moved<false>(x[i], g[i], m[j + i], v[j + i], nullptr);
      });
    } else {
      walk([&](int64_t j, int64_t count, A* x, const A* g) {
        for (int64_t i = 0; i < count; ++i) {
          x[i] = rule.template moved<true>(x[i], g[i], m[j + i], v[j + i], most + j + i);
        }
      });
    }
  });
}

}  // namespace fgunlearn::cpu
