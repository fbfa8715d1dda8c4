#include "cuda/select_pipeline.h"

namespace fgunlearn::cuda {

Selected random_k(const Context& context, const std::vector<Segment>& segments, int64_t k, uint64_t seed,
                  const std::vector<IndexList>* base) {
  const Range range("fgunlearn::random_k");
  std::vector<KeySegment> keys;
  int64_t n = 0;  // coordinates to draw from
  for (size_t t = 0; t < segments.size(); ++t) {
    KeySegment key;
    key.numel = segments[t].numel;
    key.offset = segments[t].offset;
    key.lead = static_cast<int32_t>(segments[t].offset % kPhiloxGroup);  // position 0 begins a group of 64 indices
    keys.push_back(key);
    n += segments[t].numel - (base != nullptr ? (*base)[t].count : 0);
  }
  Request request = request_of(std::move(keys), {k}, false);

  // Six standard deviations miss once in 5e8 draws; then the next bracket is ten times as wide.
  for (double sigmas = 6.0;; sigmas *= 10.0) {
    GroupState<uint64_t> state{};
    state.phase = Phase::bracket;
    double expected = 0.0;  // keys in the bracket
    if (k > 0 && k < n) {
      const Bracket<uint32_t> bracket = random_bracket(n, k, sigmas);
      state.low = static_cast<uint64_t>(bracket.low) << 32;
      state.high = static_cast<uint64_t>(bracket.high) << 32;
      expected = static_cast<double>(bracket.high - bracket.low) / 2147483648.0 * static_cast<double>(n);
    } else if (k == 0) {
      state.low = state.high = KeyTraits<uint64_t>::above_all;
    }  // k == n: every key is at least 0
    // Twice what is expected and 4,096 more: further out than the bracket's own miss.
    request.groups[0].candidates = static_cast<int64_t>(std::min(2.0 * expected + 4096.0, static_cast<double>(n)));
    Pipeline<uint64_t> pipeline(context, request, false);
    if (base != nullptr) pipeline.take(*base);
    pipeline.set_brackets({state});
    pipeline.pass(RandomKeys{seed});
    pipeline.digits(Phase::ranked);
    Findings found = findings_of(context, pipeline);
    if (found.settled) return selected_from(pipeline.plan(), std::move(found));
  }
}

}  // namespace fgunlearn::cuda
