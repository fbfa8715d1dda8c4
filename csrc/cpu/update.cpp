#include "cpu/update.h"

#include "cpu/blocks.h"

namespace fgunlearn::cpu {

namespace {

// Contiguous parameters and gradients: the index is the place.
struct Direct {
  explicit Direct(const Layout&) {}
  int64_t at(int64_t index) const { return index; }
};

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
    const IndexList& index = indices[piece.segment];
    const int64_t count = piece.end - piece.begin;
    const bool is_first = first[piece.segment] != 0;
    const bool contiguous = param.layout.ndim == 0 && grad.layout.ndim == 0;
    dispatch(param.dtype, [&](auto tag) {
      using T = decltype(tag);
      using A = typename Convert<T>::accumulate_t;
      const SgdRule<A> rule(sgd);
      A* buffer = buffers.empty() ? nullptr : static_cast<A*>(buffers[piece.segment].data) + piece.begin;
      const auto run = [&](const auto* at) {
        if (contiguous) {
          sgd_piece<T, Direct>(rule, param, grad, at + piece.begin, count, buffer, is_first);
        } else {
          sgd_piece<T, LayoutCursor>(rule, param, grad, at + piece.begin, count, buffer, is_first);
        }
      };
      if (index.wide) {
        run(static_cast<const int64_t*>(index.data));
      } else {
        run(static_cast<const int32_t*>(index.data));
      }
    });
  });
}

}  // namespace fgunlearn::cpu
