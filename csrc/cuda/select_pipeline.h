// The launches of a selection, in order, and the tables and workspace that they need.
#pragma once

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "cuda/nvtx.h"
#include "cuda/select.h"
#include "cuda/select_classify.h"
#include "cuda/select_radix.h"
#include "cuda/select_write.h"

namespace fgunlearn::cuda {

constexpr int64_t kKeepAll = int64_t{1} << 15;         // groups this small are ranked whole in the buffer
constexpr int64_t kCandidateFloor = int64_t{1} << 15;  // candidates that a group always has room for

// What is ranked: the segments, and k in all or for each of them.
struct Request {
  std::vector<KeySegment> segments;
  std::vector<Group> groups;
};

// Groups of the segments, which get their groups and first tiles: all in one, or each by itself.
inline Request request_of(std::vector<KeySegment> segments, const std::vector<int64_t>& k, bool each) {
  Request request;
  int64_t tile = 0;
  int64_t sample = 0;
  int64_t candidates = 0;
  const auto count = static_cast<int32_t>(segments.size());
  request.groups.resize(each ? segments.size() : 1);
  for (int32_t s = 0; s < count; ++s) {
    KeySegment& segment = segments[static_cast<size_t>(s)];
    segment.group = each ? s : 0;
    segment.first_tile = tile;
    if (segment.numel > 0) tile += (segment.numel + segment.lead + kTile - 1) / kTile;
    request.groups[static_cast<size_t>(segment.group)].n += segment.numel;
  }
  for (size_t g = 0; g < request.groups.size(); ++g) {
    Group& group = request.groups[g];
    group.k = k[g];
    group.first_segment = each ? static_cast<int32_t>(g) : 0;
    group.end_segment = each ? static_cast<int32_t>(g) + 1 : count;
    group.offset = count == 0 ? 0 : segments[static_cast<size_t>(group.first_segment)].offset;
    group.sample_begin = sample;
    if (group.n > kKeepAll) {
      group.sample_size = std::clamp(group.n / 128, int64_t{1} << 13, int64_t{1} << 16);
      group.ranks = sample_ranks(group.n, group.k, group.sample_size);
    }
    group.candidates = group.n;
    if (group.sample_size > 0) {
      // Twice what lies between the two ranks on average: a bracket that holds more is a bad guess.
      const int64_t width = std::min(group.ranks.low, group.sample_size) - std::max<int64_t>(group.ranks.high, 0);
      group.candidates = std::min(group.n, 2 * (group.n / group.sample_size + 1) * width + kCandidateFloor);
    }
    sample += group.sample_size;
    group.candidate_begin = candidates;
    candidates += group.candidates;
    group.first_tile = count == 0 ? 0 : segments[static_cast<size_t>(group.first_segment)].first_tile;
  }
  request.segments = std::move(segments);
  return request;
}

// Segments in memory, each led by as many positions as its first element is from an address that vectors can be read
// at.
inline std::vector<KeySegment> memory_segments(const std::vector<Segment>& segments) {
  std::vector<KeySegment> keys;
  for (const Segment& segment : segments) {
    KeySegment key;
    key.data = segment.data;
    key.numel = segment.numel;
    key.offset = segment.offset;
    key.dtype = segment.dtype;
    key.lead = static_cast<int32_t>(reinterpret_cast<uintptr_t>(segment.data) % 16 /
                                    static_cast<uintptr_t>(item_size(segment.dtype)));
    keys.push_back(key);
  }
  return keys;
}

inline bool has_f64(const std::vector<Segment>& segments) {
  return std::any_of(segments.begin(), segments.end(), [](const Segment& s) { return s.dtype == DType::f64; });
}

inline KeyTable key_table(const Context& context, const std::vector<KeySegment>& segments) {
  int64_t tiles = 0;
  for (const KeySegment& segment : segments) {
    if (segment.numel > 0) tiles = segment.first_tile + (segment.numel + segment.lead + kTile - 1) / kTile;
  }
  return {upload(context, segments), static_cast<int32_t>(segments.size()), tiles};
}

// What a pass writes, and the sums over the tiles before.
template <typename Key>
void allocate_bits(const Context& context, Plan<Key>& plan) {
  plan.bad_key = context.allocate_zeroed<uint32_t>(1);
  plan.above = context.allocate<uint32_t>(plan.tiles * kTileWords);
  plan.between = context.allocate<uint32_t>(plan.tiles * kTileWords);
  plan.tile_above = context.allocate<uint32_t>(plan.tiles);
  plan.tile_between = context.allocate<uint32_t>(plan.tiles);
  plan.tile_slice = context.allocate<int64_t>(plan.tiles);
  plan.certain_before = context.allocate<int64_t>(plan.tiles + 1);
  plan.ties_before = context.allocate<int64_t>(plan.tiles + 1);
}

// Sums tile_certain and tile_ties over the tiles before each.
template <typename Key>
void sum_tiles(const Context& context, const Plan<Key>& plan) {
  const int64_t chunks = std::max<int64_t>(1, (plan.tiles + kScanChunk - 1) / kScanChunk);
  int64_t* chunk_sums = context.allocate<int64_t>(2 * chunks);
  launch(context, chunk_sums_kernel<Key>, grid_of(chunks), kThreads, plan, chunk_sums);
  launch(context, scan_kernel<Key>, grid_of(chunks), kThreads, plan, chunk_sums);
}

template <typename Key>
class Pipeline {
 public:
  Pipeline(const Context& context, const Request& request, bool finite_only) : context_(context) {
    static_cast<KeyTable&>(plan_) = key_table(context, request.segments);
    plan_.group_count = static_cast<int32_t>(request.groups.size());
    int64_t candidates = 0;
    for (const Group& group : request.groups) {
      plan_.sample_total += group.sample_size;
      candidates += group.candidates;
    }
    plan_.finite_only = finite_only ? 1 : 0;
    plan_.groups = upload(context, request.groups);
    plan_.states = context.allocate<GroupState<Key>>(plan_.group_count);
    plan_.bins = context.allocate_zeroed<unsigned long long>(int64_t{plan_.group_count} * kBins);
    plan_.sample = context.allocate<Key>(plan_.sample_total);
    allocate_bits(context, plan_);
    plan_.tile_certain = context.allocate<uint32_t>(plan_.tiles);
    plan_.tile_ties = context.allocate<uint32_t>(plan_.tiles);
    plan_.candidates = context.allocate<Key>(candidates);
    plan_.candidate_positions = context.allocate<uint16_t>(candidates);
  }

  const Plan<Key>& plan() const { return plan_; }

  // Coordinates that are not drawn, and are in the answer all the same.
  void take(const std::vector<IndexList>& lists) {
    uint32_t* taken = context_.allocate_zeroed<uint32_t>(plan_.tiles * kTileWords);
    std::vector<int64_t> first{0};
    for (const IndexList& list : lists) first.push_back(first.back() + list.count);
    const unsigned blocks = first.back() == 0 ? 0u : looping_grid(context_, first.back(), kThreads);
    launch(context_, take_kernel<Key>, blocks, kThreads, plan_, upload(context_, lists), upload(context_, first),
           taken);
    plan_.taken = taken;
  }

  template <typename Source>
  void bracket(const Source& source, bool exhaustive) {
    if (plan_.sample_total > 0 && !exhaustive) {
      const unsigned blocks = looping_grid(context_, plan_.sample_total, kThreads);
      launch(context_, sample_kernel<Key, Source>, blocks, kThreads, plan_, source);
    }
    launch(context_, bracket_kernel<Key>, grid_of(plan_.group_count), kBracketThreads, plan_, exhaustive ? 1 : 0);
  }

  // Brackets that are known without a sample.
  void set_brackets(const std::vector<GroupState<Key>>& states) {
    plan_.states = upload(context_, states);
    plan_.preset = 1;
  }

  template <typename Source>
  void pass(const Source& source) {
    launch(context_, classify_kernel<Key, Source>, tile_grid(context_, plan_), kThreads, plan_, source);
    launch(context_, decide_kernel<Key>, per_group_grid(), kThreads, plan_);
  }

  // The digits of the k-th key: of the candidates (Phase::ranked), or of all keys (Phase::radix).
  void digits(Phase phase) {
    for (int digit = 0; digit < kDigits<Key>; ++digit) {
      if (phase == Phase::ranked) {
        launch(context_, histogram_candidates_kernel<Key>, candidate_grid(), kThreads, plan_);
      } else {
        launch(context_, histogram_keys_kernel<Key>, tile_grid(context_, plan_), kThreads, plan_);
      }
      launch(context_, pick_kernel<Key>, grid_of(plan_.group_count), kThreads, plan_, phase);
    }
  }

  void summarise(const Summary& summary) {
    launch(context_, count_kernel<Key>, tile_grid(context_, plan_), kThreads, plan_);
    sum_tiles(context_, plan_);
    const int64_t most = std::max(plan_.segment_count, plan_.group_count);
    launch(context_, summary_kernel<Key>, grid_of((most + kThreads - 1) / kThreads), kThreads, plan_, summary);
  }

 private:
  // As many blocks for each group, and a few for each multiprocessor.
  unsigned candidate_grid() const {
    const int64_t groups = plan_.group_count;
    return grid_of(groups == 0 ? 0 : groups * std::max<int64_t>(1, 4 * int64_t{context_.multiprocessors()} / groups));
  }

  unsigned per_group_grid() const { return grid_of((int64_t{plan_.group_count} + kThreads - 1) / kThreads); }

  const Context& context_;
  Plan<Key> plan_{};
};

// What the host reads back: two flags, then per group a threshold, then per segment a count, in one piece.
struct Findings {
  bool bad_key = false;
  bool settled = false;
  std::vector<double> thresholds;
  std::vector<int64_t> counts;
};

// Waits for the stream.
template <typename Key>
Findings findings_of(const Context& context, Pipeline<Key>& pipeline) {
  const auto groups = static_cast<size_t>(pipeline.plan().group_count);
  const auto segments = static_cast<size_t>(pipeline.plan().segment_count);
  static_assert(sizeof(double) == sizeof(int64_t));
  int64_t* device = context.allocate_zeroed<int64_t>(static_cast<int64_t>(2 + groups + segments));
  Summary summary{};
  summary.flags = device;
  summary.thresholds = reinterpret_cast<double*>(device + 2);
  summary.counts = device + 2 + groups;
  pipeline.summarise(summary);
  std::vector<int64_t> host(2 + groups + segments);
  context.read_back(host.data(), device, static_cast<int64_t>(host.size()));
  Findings found;
  found.bad_key = host[0] != 0;
  found.settled = host[1] == 0;
  for (size_t g = 0; g < groups; ++g) found.thresholds.push_back(bits::cast<double>(host[2 + g]));
  found.counts.assign(host.begin() + 2 + static_cast<std::ptrdiff_t>(groups), host.end());
  return found;
}

template <typename Key>
Selected selected_from(const Plan<Key>& plan, Findings found) {
  const auto write = [plan](const Context& context, const std::vector<Output>& outputs) {
    launch(context, write_kernel<Key>, tile_grid(context, plan), kThreads, plan, upload(context, outputs));
  };
  return Selected(std::move(found.counts), std::move(found.thresholds), write);
}

// The passes after the first, for the groups that it did not settle: of the plateau that a bracket points to which
// missed, and then by radix histograms. They do nothing where all are settled.
template <typename Key>
void settle_the_rest(Pipeline<Key>& pipeline, bool finite_only) {
  const MemoryKeys memory{finite_only};
  pipeline.pass(memory);
  pipeline.digits(Phase::radix);
  pipeline.pass(memory);
}

// The selection by keys in memory. Waits for the stream once, or twice where a sample misled. `refuse` is called where
// a key is NaN, and throws.
template <typename Key, typename Refuse>
Selected selection(const Context& context, const Request& request, bool exhaustive, Refuse&& refuse) {
  Pipeline<Key> pipeline(context, request, false);
  const MemoryKeys source{false};
  pipeline.bracket(source, exhaustive);
  pipeline.pass(source);
  pipeline.digits(Phase::ranked);
  Findings found = findings_of(context, pipeline);
  if (!found.settled && !found.bad_key) {
    settle_the_rest(pipeline, false);
    found = findings_of(context, pipeline);
  }
  if (found.bad_key) refuse();
  if (!found.settled) throw std::runtime_error("the k-th key was not found: the keys changed during the selection");
  return selected_from(pipeline.plan(), std::move(found));
}

// The selection by a source whose keys lie in memory after the first pass, without waiting: what is needed only where a
// sample misled is enqueued always.
template <typename Key, typename Source>
void packed_selection(const Context& context, const Request& request, const Source& source, bool finite_only,
                      const Packed& out) {
  Pipeline<Key> pipeline(context, request, finite_only);
  pipeline.bracket(source, false);
  pipeline.pass(source);
  pipeline.digits(Phase::ranked);
  settle_the_rest(pipeline, finite_only);
  // Each segment's place is known beforehand where each is a group: its k.
  const bool each = request.groups.size() == request.segments.size();
  const size_t segments = request.segments.size();
  std::vector<Output> outputs(segments, Output{out.indices, out.wide ? 1 : 0, 1});
  std::vector<int64_t> offsets{0};
  for (size_t s = 0; each && s < segments; ++s) {
    outputs[s].indices = static_cast<char*>(out.indices) + offsets[s] * (out.wide ? 8 : 4);
    offsets.push_back(offsets[s] + request.groups[s].k);
  }
  if (each) upload(context, offsets.data(), static_cast<int64_t>(offsets.size() * sizeof(int64_t)), out.offsets);
  Summary summary{};
  summary.thresholds = out.thresholds;
  summary.offsets = each ? nullptr : out.offsets;
  pipeline.summarise(summary);
  launch(context, write_kernel<Key>, tile_grid(context, pipeline.plan()), kThreads, pipeline.plan(),
         upload(context, outputs));
}

}  // namespace fgunlearn::cuda
