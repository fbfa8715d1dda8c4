#include "cpu/sparse_add.h"

#include "cpu/blocks.h"

namespace fgunlearn::cpu {

void sparse_add(const Executor& executor, const Segment& out, const IndexList& index, const Segment& delta) {
  const std::vector<Piece> pieces = cut({index});
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const Piece& piece = pieces[p];
    dispatch(out.dtype, [&](auto out_tag) {
      using T = decltype(out_tag);
      using A = typename Convert<T>::accumulate_t;
      T* x = static_cast<T*>(out.data);
      dispatch(delta.dtype, [&](auto delta_tag) {
        using D = decltype(delta_tag);
        const D* d = static_cast<const D*>(delta.data);
        for (int64_t j = piece.begin; j < piece.end; ++j) {
          T& coordinate = x[index[j]];
          coordinate = Convert<T>::store(Convert<T>::load(coordinate) + static_cast<A>(Convert<D>::load(d[j])));
        }
      });
    });
  });
}

}  // namespace fgunlearn::cpu
