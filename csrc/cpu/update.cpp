#include "cpu/update.h"

#include "cpu/blocks.h"
#include "cpu/coordinates.h"

namespace fgunlearn::cpu {

namespace {

template <typename T, typename Place, typename Index>
void sgd_piece(const SgdRule<typename Convert<T>::accumulate_t>& rule, const Segment& param, const Segment& grad,
               const Index* index, int64_t count, typename Convert<T>::accumulate_t* buffer, bool first) {
  using C = Convert<T>;
  T* x = static_cast<T*>(param.data);
  const T* g = static_cast<const T*>(grad.data);
  Place of_param(param.layout);
  Place of_grad(grad.layout);
  if (buffer == nullptr) {
    for (int64_t j = 0; j < count; ++j) {
      T& coordinate = x[of_param.at(index[j])];
      coordinate = C::store(rule.plain(C::load(coordinate), C::load(g[of_grad.at(index[j])])));
    }
    return;
  }
  for (int64_t j = 0; j < count; ++j) {
    T& coordinate = x[of_param.at(index[j])];
    coordinate = C::store(rule.with_momentum(C::load(coordinate), C::load(g[of_grad.at(index[j])]), buffer[j], first));
  }
}

}  // namespace

void sgd(const Executor& executor, const std::vector<Segment>& params, const std::vector<Segment>& grads,
         const std::vector<IndexList>& indices, const std::vector<Segment>& buffers, const std::vector<int64_t>& first,
         const Sgd& sgd) {
  const std::vector<Piece> pieces = cut(indices);
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const Piece& piece = pieces[p];
    const Segment& param = params[piece.segment];
    const Segment& grad = grads[piece.segment];
    const int64_t count = piece.end - piece.begin;
    const bool is_first = first[piece.segment] != 0;
    const bool contiguous = param.layout.ndim == 0 && grad.layout.ndim == 0;
    dispatch(param.dtype, [&](auto tag) {
      using T = decltype(tag);
      using A = typename Convert<T>::accumulate_t;
      const SgdRule<A> rule(sgd);
      A* buffer = buffers.empty() ? nullptr : static_cast<A*>(buffers[piece.segment].data) + piece.begin;
      with_places(indices[piece.segment], contiguous, [&](const auto* index, auto place_tag) {
        using Place = typename decltype(place_tag)::type;
        sgd_piece<T, Place>(rule, param, grad, index + piece.begin, count, buffer, is_first);
      });
    });
  });
}

}  // namespace fgunlearn::cpu
