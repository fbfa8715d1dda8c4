#include "cpu/score.h"

#include <algorithm>
#include <atomic>

#include "cpu/blocks.h"
#include "cpu/isa/table.h"

namespace fgunlearn::cpu {

namespace {

std::vector<Piece> pieces_of(const std::vector<Segment>& segments) {
  return cut(static_cast<int64_t>(segments.size()), kBlock, [&](int64_t t) { return segments[t].numel; });
}

char* element(const Segment& segment, int64_t index) {
  return static_cast<char*>(segment.data) + index * item_size(segment.dtype);
}

}  // namespace

void accumulate_scores(const Executor& executor, const std::vector<Segment>& scores, const std::vector<Segment>& grads,
                       ScoreKind kind, double weight) {
  const std::vector<Piece> pieces = pieces_of(grads);
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const Piece& piece = pieces[p];
    const Segment& score = scores[piece.segment];
    const Segment& grad = grads[piece.segment];
    isa().accumulate[static_cast<int>(grad.dtype)](element(score, piece.begin), element(grad, piece.begin),
                                                   piece.end - piece.begin, weight, kind);
  });
}

void count_nonfinite(const Executor& executor, const std::vector<Segment>& segments, int64_t* counts) {
  const std::vector<Piece> pieces = pieces_of(segments);
  std::vector<std::atomic<int64_t>> found(segments.size());
  executor.for_each(static_cast<int64_t>(pieces.size()), [&](int64_t, int64_t p) {
    const Piece& piece = pieces[p];
    const Segment& segment = segments[piece.segment];
    const int64_t bad =
        isa().count_nonfinite[static_cast<int>(segment.dtype)](element(segment, piece.begin), piece.end - piece.begin);
    if (bad > 0) found[piece.segment].fetch_add(bad, std::memory_order_relaxed);
  });
  std::copy(found.begin(), found.end(), counts);
}

}  // namespace fgunlearn::cpu
