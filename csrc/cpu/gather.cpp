#include "cpu/gather.h"

#include "cpu/blocks.h"
#include "cpu/coordinates.h"

namespace fgunlearn::cpu {

namespace {

// Calls move(coordinate, value) with references to each selected coordinate and its place in the values.
template <typename Move>
void for_each_pair(const Executor& executor, const std::vector<Segment>& segments,
                   const std::vector<IndexList>& indices, const std::vector<Segment>& values, Move&& move) {
  const std::vector<Piece> pieces = cut(indices);
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const Piece& piece = pieces[p];
    const Segment& segment = segments[piece.segment];
    const IndexList& index = indices[piece.segment];
    dispatch(segment.dtype, [&](auto tag) {
      using T = decltype(tag);
      T* x = static_cast<T*>(segment.data);
      T* v = static_cast<T*>(values[piece.segment].data);
      with_places(index, segment.layout.ndim == 0, [&](const auto* at, auto place_tag) {
        typename decltype(place_tag)::type place(segment.layout);
        for (int64_t j = piece.begin; j < piece.end; ++j) move(x[place.at(at[j])], v[j]);
      });
    });
  });
}

}  // namespace

void gather(const Executor& executor, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
            const std::vector<Segment>& values) {
  for_each_pair(executor, segments, indices, values, [](const auto& coordinate, auto& value) { value = coordinate; });
}

void scatter(const Executor& executor, const std::vector<Segment>& segments, const std::vector<IndexList>& indices,
             const std::vector<Segment>& values) {
  for_each_pair(executor, segments, indices, values, [](auto& coordinate, const auto& value) { coordinate = value; });
}

}  // namespace fgunlearn::cpu
