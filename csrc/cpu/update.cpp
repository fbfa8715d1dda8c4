#include "cpu/update.h"

#include "cpu/blocks.h"

namespace fgunlearn::cpu {

void sgd(const Executor& executor, const std::vector<Segment>& params, const std::vector<Segment>& grads,
         const std::vector<IndexList>& indices, const std::vector<Segment>& buffers, const std::vector<int64_t>& first,
         const Sgd& rule) {
  const std::vector<Piece> pieces = cut(indices);
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const Piece& piece = pieces[p];
    const Segment& param = params[piece.segment];
    const Segment& grad = grads[piece.segment];
    const IndexList& index = indices[piece.segment];
    dispatch(param.dtype, [&](auto tag) {
      using T = decltype(tag);
      using A = typename Convert<T>::accumulate_t;
      T* x = static_cast<T*>(param.data);
      const T* g = static_cast<const T*>(grad.data);
      A* buffer = buffers.empty() ? nullptr : static_cast<A*>(buffers[piece.segment].data);
      const bool same_layout = param.layout == grad.layout;  // as autograd gives them: one place serves both
      LayoutCursor of_param(param.layout);
      LayoutCursor of_grad(grad.layout);
      for (int64_t j = piece.begin; j < piece.end; ++j) {
        const int64_t i = index[j];
        const int64_t where = of_param.at(i);
        x[where] = Convert<T>::store(sgd_step<A>(rule, Convert<T>::load(x[where]),
                                                 Convert<T>::load(g[same_layout ? where : of_grad.at(i)]),
                                                 buffer == nullptr ? nullptr : buffer + j, first[piece.segment] != 0));
      }
    });
  });
}

}  // namespace fgunlearn::cpu
