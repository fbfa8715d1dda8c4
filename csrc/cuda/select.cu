#include "cuda/select.h"

#include "cuda/score.h"
#include "cuda/select_pipeline.h"

namespace fgunlearn::cuda {

Selected::Selected(std::vector<int64_t> counts, std::vector<double> thresholds, Write write)
    : counts_(std::move(counts)), thresholds_(std::move(thresholds)), write_(std::move(write)) {}

void Selected::write(const Context& context, const std::vector<bool>& wide, const std::vector<void*>& out) const {
  std::vector<Output> outputs;
  int64_t total = 0;
  for (size_t t = 0; t < out.size(); ++t) {
    outputs.push_back({out[t], wide[t] ? 1 : 0, 0});
    total += counts_[t];
  }
  if (total > 0) write_(context, outputs);
}

namespace {

// Counts the NaN of the segments, waits, and throws.
[[noreturn]] void refuse_nan(const Context& context, const std::vector<Segment>& segments) {
  const auto n = static_cast<int64_t>(segments.size());
  int64_t* device = context.allocate<int64_t>(n);
  count_nan(context, segments, device);
  std::vector<int64_t> counts(segments.size());
  context.read_back(counts.data(), device, n);
  for (size_t t = 0; t < counts.size(); ++t) {
    if (counts[t] > 0) throw BadKeys(static_cast<int64_t>(t), counts[t], "NaN");
  }
  throw std::runtime_error("a NaN vanished while it was counted: the keys changed during the selection");
}

Selected top_k_of(const Context& context, const std::vector<Segment>& segments, const std::vector<int64_t>& k,
                  bool each, bool exhaustive) {
  const Request request = request_of(memory_segments(segments), k, each);
  const MemoryKeys source{false};
  const auto refuse = [&] { refuse_nan(context, segments); };
  if (has_f64(segments)) {
    return ranked_selection<uint64_t>(context, request, source, false, exhaustive, refuse);
  }
  return ranked_selection<uint32_t>(context, request, source, false, exhaustive, refuse);
}

template <typename Key>
void packed(const Context& context, const Request& request, bool wide, void* indices, int64_t* offsets,
            double* threshold) {
  const MemoryKeys source{false};
  Pipeline<Key> pipeline(context, request, false);
  pipeline.bracket(source, false);
  pipeline.pass(source);
  pipeline.digits(Phase::ranked);
  // What follows does nothing unless the sample was wrong, and then the guess, which only the device knows.
  pipeline.pass(source);
  pipeline.digits(Phase::radix);
  pipeline.pass(source);
  Summary summary{};
  summary.thresholds = threshold;
  summary.offsets = offsets;
  pipeline.summarise(summary);
  const std::vector<Output> outputs(request.segments.size(), Output{indices, wide ? 1 : 0, 1});
  launch(context, write_kernel<Key>, tile_grid(context, pipeline.plan()), kThreads, pipeline.plan(),
         upload(context, outputs));
}

}  // namespace

Selected top_k(const Context& context, const std::vector<Segment>& segments, int64_t k, bool exhaustive) {
  const Range range("fgunlearn::top_k");
  return top_k_of(context, segments, {k}, false, exhaustive);
}

Selected top_k_each(const Context& context, const std::vector<Segment>& segments, const std::vector<int64_t>& k) {
  const Range range("fgunlearn::top_k_each");
  return top_k_of(context, segments, k, true, false);
}

void top_k_packed(const Context& context, const std::vector<Segment>& segments, int64_t k, bool wide, void* indices,
                  int64_t* offsets, double* threshold) {
  const Range range("fgunlearn::top_k_packed");
  const Request request = request_of(memory_segments(segments), {k}, false);
  if (has_f64(segments)) {
    packed<uint64_t>(context, request, wide, indices, offsets, threshold);
  } else {
    packed<uint32_t>(context, request, wide, indices, offsets, threshold);
  }
}

}  // namespace fgunlearn::cuda
