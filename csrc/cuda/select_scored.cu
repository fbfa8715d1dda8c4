#include "cuda/select_pipeline.h"

namespace fgunlearn::cuda {

void accumulate_top_k_packed(const Context& context, const std::vector<Segment>& scores,
                             const std::vector<Segment>& grads, ScoreKind kind, double weight,
                             const std::vector<int64_t>& k, bool each, const Packed& out) {
  const Range range("fgunlearn::accumulate_top_k_packed");
  std::vector<KeySegment> segments = memory_segments(scores);
  for (size_t t = 0; t < segments.size(); ++t) {
    segments[t].grad = grads[t].data;
    segments[t].grad_dtype = grads[t].dtype;
  }
  const Request request = request_of(std::move(segments), k, each);
  const ScoredKeys source{kind, weight};
  if (has_f64(scores)) {
    packed_selection<uint64_t>(context, request, source, true, out);
  } else {
    packed_selection<uint32_t>(context, request, source, true, out);
  }
}

}  // namespace fgunlearn::cuda
