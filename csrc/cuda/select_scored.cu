#include "cuda/score.h"
#include "cuda/select_pipeline.h"

namespace fgunlearn::cuda {

namespace {

[[noreturn]] void refuse_nonfinite(const Context& context, const std::vector<Segment>& scores) {
  const auto n = static_cast<int64_t>(scores.size());
  int64_t* device = context.allocate<int64_t>(n);
  count_nonfinite(context, scores, device);
  std::vector<int64_t> counts(scores.size());
  context.read_back(counts.data(), device, n);
  for (size_t t = 0; t < counts.size(); ++t) {
    if (counts[t] > 0) throw BadKeys(static_cast<int64_t>(t), counts[t], "NaN or infinite values");
  }
  throw std::runtime_error("a NaN vanished while it was counted: the scores changed during the selection");
}

}  // namespace

Selected accumulate_top_k(const Context& context, const std::vector<Segment>& scores, const std::vector<Segment>& grads,
                          ScoreKind kind, double weight, const std::vector<int64_t>& k, bool each) {
  const Range range("fgunlearn::accumulate_top_k");
  std::vector<KeySegment> segments = memory_segments(scores);
  for (size_t t = 0; t < segments.size(); ++t) {
    segments[t].grad = grads[t].data;
    segments[t].grad_dtype = grads[t].dtype;
  }
  const Request request = request_of(std::move(segments), k, each);
  const ScoredKeys source{kind, weight};
  const auto refuse = [&] { refuse_nonfinite(context, scores); };
  if (has_f64(scores)) return ranked_selection<uint64_t>(context, request, source, true, false, refuse);
  return ranked_selection<uint32_t>(context, request, source, true, false, refuse);
}

}  // namespace fgunlearn::cuda
