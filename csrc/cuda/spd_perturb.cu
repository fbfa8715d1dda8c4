#include "cuda/spd_perturb.h"

#include <algorithm>
#include <initializer_list>

#include "cuda/nvtx.h"
#include "cuda/spd_perturb_pass.h"
#include "cuda/warp.h"

namespace fgunlearn::cuda {

namespace {

// Sums over the lanes of a warp; every lane gets them.
__device__ inline Sums<double> warp_total(Sums<double> sums, bool largest) {
#pragma unroll
  for (int step = 16; step > 0; step >>= 1) {
    const double first = __shfl_xor_sync(kAllLanes, sums.first, step);
    sums.first = largest ? larger(sums.first, first) : sums.first + first;
    sums.second += __shfl_xor_sync(kAllLanes, sums.second, step);
  }
  return sums;
}

constexpr int kWarps = kThreads / kWarp;

// Sums over the threads of a block, in a fixed order; every thread gets them. `scratch` may be used again after the
// next barrier.
__device__ inline Sums<double> block_total(Sums<double> sums, bool largest, double* scratch) {
  sums = warp_total(sums, largest);
  if (lane_id() == 0) {
    scratch[warp_in_block()] = sums.first;
    scratch[kWarps + warp_in_block()] = sums.second;
  }
  __syncthreads();
  Sums<double> total;  // zeros, which no |tanh| is below
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    total.first = largest ? larger(total.first, scratch[w]) : total.first + scratch[w];
    total.second += scratch[kWarps + w];
  }
  return total;
}

template <typename A>
__device__ inline Sums<double> widened(const Sums<A>& sums) {
  return {static_cast<double>(sums.first), static_cast<double>(sums.second)};
}

// --- no sums: tile after tile --------------------------------------------------------------------------------------

// The samples, or the parts of them that one block takes at a time.
struct Tiling {
  int64_t size;   // of a sample
  int64_t tile;   // elements of a tile; the last of a sample may have fewer
  int64_t each;   // tiles of a sample
  int64_t tiles;  // of all
  bool vectors;

  __device__ int64_t sample_of(int64_t number) const { return number / each; }
  __device__ Place place(int64_t number, int64_t sample) const {
    const int64_t begin = (number - sample * each) * tile;
    const int64_t rest = size - begin;
    return {sample * size + begin, 0, static_cast<int32_t>(rest < tile ? rest : tile), vectors};
  }
};

// Vectors that begin in the part.
template <typename Pass>
__device__ inline int32_t vectors_of(const Place& part) {
  return (part.count + Pass::lanes - 1) / Pass::lanes;
}

template <typename Pass>
__device__ inline Place vector_of(Place part, int32_t i) {
  part.begin = i * Pass::lanes;
  return part;
}

template <typename Pass>
__device__ inline void finish_part(const Pass& pass, const Place& part, const Known<typename Pass::A>& known) {
  for_each_in_flight<2>(
      vectors_of<Pass>(part), [&](int32_t i) { return pass.load(vector_of<Pass>(part, i)); },
      [&](int32_t i, const typename Pass::Held& held) {
        pass.finish(vector_of<Pass>(part, i), known, pass.prepare(known, held));
      });
}

template <typename Pass>
__global__ void __launch_bounds__(kThreads, Pass::blocks) tiles_kernel(Pass pass, SpdRule rule, Tiling tiling) {
  for (int64_t number = blockIdx.x; number < tiling.tiles; number += gridDim.x) {
    const int64_t sample = tiling.sample_of(number);
    finish_part(pass, tiling.place(number, sample), pass.known_before(rule, sample));
  }
}

// --- a sample in the registers of a warp or a block ----------------------------------------------------------------

constexpr int kHeldElements = 16;  // of each operand that a thread holds; 8 of f64

template <typename T>
constexpr int kHeldVectors = sizeof(T) == 8 ? 4 : kHeldElements / kVectorLanes<T>;

// The largest sample that a team of threads holds.
template <typename T>
constexpr int64_t kHeldSize(int team) {
  return int64_t{team} * kHeldVectors<T> * kVectorLanes<T>;
}

template <typename Pass, int kTeam>
__global__ void __launch_bounds__(kThreads, 2) held_kernel(Pass pass, SpdRule rule, int64_t samples, Tiling tiling) {
  static_assert(kTeam == kWarp || kTeam == kThreads);
  using A = typename Pass::A;
  constexpr int held_vectors = kHeldVectors<typename Pass::T>;
  constexpr int teams = kThreads / kTeam;
  __shared__ double scratch[2 * kWarps];
  const int rank = static_cast<int>(threadIdx.x) % kTeam;
  const int64_t step = int64_t{teams} * gridDim.x;
  for (int64_t sample = int64_t{teams} * blockIdx.x + threadIdx.x / kTeam; sample < samples; sample += step) {
    Place at[held_vectors];
    typename Pass::Held held[held_vectors];
#pragma unroll
    for (int v = 0; v < held_vectors; ++v) {
      at[v] = vector_of<Pass>(tiling.place(sample, sample), v * kTeam + rank);
      held[v] = pass.load(at[v]);
    }
    Known<A> known = pass.known_before(rule, sample);
    typename Pass::Ready ready[held_vectors];
#pragma unroll
    for (int v = 0; v < held_vectors; ++v) ready[v] = pass.prepare(known, held[v]);
    if (pass.wants_sums(rule, sample)) {  // all threads of a sample agree
      Sums<A> sums;
#pragma unroll
      for (int v = 0; v < held_vectors; ++v) pass.add(known, rule.ball, ready[v], sums);
      const bool largest = Pass::takes_largest(rule.ball);
      const Sums<double> total =
          kTeam == kWarp ? warp_total(widened(sums), largest) : block_total(widened(sums), largest, scratch);
      known = pass.known_after(rule, sample, total);
      if (rank == 0) pass.note(rule, sample, total);
    }
#pragma unroll
    for (int v = 0; v < held_vectors; ++v) {
      if (at[v].begin < at[v].count) pass.finish(at[v], known, ready[v]);
    }
    if constexpr (kTeam == kThreads) __syncthreads();
  }
}

// --- large samples: sums of tiles a little ahead of their use ------------------------------------------------------

// Every tile is summed, and later finished. The tasks stand in one line: that many sums, `lead` of them, come first;
// then a tile is finished and another summed by turns; the last tiles are finished. Blocks take tasks from the front,
// so a tile's second task comes a moment after its first, and finds its operands in the L2 cache. A block that needs a
// sum waits for blocks that took their task before it did, never for one that has not begun: there is no deadlock,
// however few blocks run at a time. The block that sums a sample's last tile adds up the sums of all, once: that each
// block that finishes a tile did so would take the square of the number of tiles. Zeroed before the launch: `taken` and
// `done`.
struct Relay {
  int64_t lead;
  Sums<double>* sums;         // of each tile
  Sums<double>* totals;       // of each sample
  unsigned long long* taken;  // tasks
  unsigned* done;             // summed tiles of each sample, and 1 more when its total is there
};

struct Task {
  bool sums;
  int64_t tile;
};

__device__ inline Task task_at(int64_t place, int64_t tiles, int64_t lead) {
  if (place < lead) return {true, place};
  const int64_t after = place - lead;
  if (after < 2 * (tiles - lead)) return {after % 2 != 0, after % 2 != 0 ? lead + after / 2 : after / 2};
  return {false, after - (tiles - lead)};
}

// Sums that another block wrote: not through the L1 cache, which may hold what was there before.
__device__ inline Sums<double> fetched(const Sums<double>* sums) {
  const volatile Sums<double>* fresh = sums;
  return {fresh->first, fresh->second};
}

// Sums a tile; and the sample, if this was the last of its tiles to be summed. In a fixed order, whichever block does.
template <typename Pass>
__device__ void sum_tile(const Pass& pass, const SpdRule& rule, const Tiling& tiling, const Relay& relay,
                         int64_t number, int64_t sample, const Place& part, double* scratch) {
  using A = typename Pass::A;
  if (!pass.wants_sums(rule, sample)) return;  // all blocks agree: nobody waits for it
  const bool largest = Pass::takes_largest(rule.ball);
  const Known<A> known = pass.known_before(rule, sample);
  Sums<A> sums;
  for_each_in_flight<2>(
      vectors_of<Pass>(part), [&](int32_t i) { return pass.load_for_sums(vector_of<Pass>(part, i)); },
      [&](int32_t, const typename Pass::Held& held) { pass.add(known, rule.ball, pass.prepare(known, held), sums); });
  const Sums<double> of_tile = block_total(widened(sums), largest, scratch);
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    relay.sums[number] = of_tile;
    __threadfence();  // before it is counted
    is_last = atomicAdd(relay.done + sample, 1u) + 1u == static_cast<unsigned>(tiling.each);
    __threadfence();  // after all were counted: what other blocks wrote before they counted is there
  }
  __syncthreads();
  if (!is_last) return;
  Sums<double> total;
  for (int64_t i = threadIdx.x; i < tiling.each; i += kThreads) {
    const Sums<double> one = fetched(relay.sums + sample * tiling.each + i);
    total.first = largest ? larger(total.first, one.first) : total.first + one.first;
    total.second += one.second;
  }
  total = block_total(total, largest, scratch);
  if (threadIdx.x == 0) {
    relay.totals[sample] = total;
    __threadfence();  // before it is announced
    atomicAdd(relay.done + sample, 1u);
  }
}

__device__ inline void pause() {
#if defined(__CUDA_ARCH__)
  __nanosleep(100);
#endif
}

// The sums of a sample, when they are there.
__device__ inline Sums<double> sample_total(const Relay& relay, const Tiling& tiling, int64_t sample) {
  if (threadIdx.x == 0) {
    const volatile unsigned* done = relay.done + sample;
    while (*done <= static_cast<unsigned>(tiling.each)) pause();
    __threadfence();
  }
  __syncthreads();
  return fetched(relay.totals + sample);
}

template <typename Pass>
__global__ void __launch_bounds__(kThreads, Pass::blocks)
    relay_kernel(Pass pass, SpdRule rule, Tiling tiling, Relay relay) {
  __shared__ double scratch[2 * kWarps];
  __shared__ unsigned long long taken;
  for (;;) {
    if (threadIdx.x == 0) taken = atomicAdd(relay.taken, 1ull);
    __syncthreads();
    const int64_t place = static_cast<int64_t>(taken);
    if (place >= 2 * tiling.tiles) return;
    const Task task = task_at(place, tiling.tiles, relay.lead);
    const int64_t sample = tiling.sample_of(task.tile);
    const Place part = tiling.place(task.tile, sample);
    if (task.sums) {
      sum_tile(pass, rule, tiling, relay, task.tile, sample, part, scratch);
    } else if (pass.wants_sums(rule, sample)) {
      const Sums<double> total = sample_total(relay, tiling, sample);
      if (threadIdx.x == 0 && part.offset == sample * tiling.size) pass.note(rule, sample, total);
      finish_part(pass, part, pass.known_after(rule, sample, total));
    } else {
      finish_part(pass, part, pass.known_before(rule, sample));
    }
    __syncthreads();  // before `taken` and `scratch` are written again
  }
}

// --- launching -----------------------------------------------------------------------------------------------------

template <typename T>
Tiling tiling_of(const SpdBatch& batch, int64_t tile_bytes, bool vectors) {
  const int64_t tile = tile_bytes / static_cast<int64_t>(sizeof(T));
  const int64_t each = (batch.size + tile - 1) / tile;
  return {batch.size, tile, each, batch.samples * each, vectors};
}

constexpr int64_t kRelayTileBytes = 2 * kVectorBytes * kThreads;  // two vectors of each operand per thread

template <typename Pass>
void relay(const Context& context, const Pass& pass, const SpdBatch& batch, const SpdRule& rule, bool vectors) {
  const Tiling tiling = tiling_of<typename Pass::T>(batch, kRelayTileBytes, vectors);
  // All tiles of a sample have to be summed before its first is finished. Half as many again as blocks run at a time,
  // which are summing and finishing by turns: what a block waits for was taken by one that is likely through with it.
  const int64_t ahead = int64_t{context.multiprocessors()} * Pass::blocks / 2 + 1;
  const int64_t lead = std::min(tiling.tiles, tiling.each + ahead);
  const int64_t bytes_of_done = batch.samples * static_cast<int64_t>(sizeof(unsigned));
  auto* counters = context.allocate_zeroed<unsigned char>(8 + bytes_of_done);
  const Relay work{lead, context.allocate<Sums<double>>(tiling.tiles), context.allocate<Sums<double>>(batch.samples),
                   reinterpret_cast<unsigned long long*>(counters), reinterpret_cast<unsigned*>(counters + 8)};
  launch(context, relay_kernel<Pass>, looping_grid(context, 2 * tiling.tiles, 1, Pass::blocks), kThreads, pass, rule,
         tiling, work);
}

template <typename Pass>
void run(const Context& context, const Pass& pass, const SpdBatch& batch, const SpdRule& rule, bool vectors) {
  using T = typename Pass::T;
  if (batch.size <= kHeldSize<T>(kThreads) && (rule.ball != Ball::none || rule.eps_each != nullptr)) {
    const bool by_warps = batch.size <= kHeldSize<T>(kWarp);
    const int64_t together = by_warps ? kWarps : 1;
    const auto kernel = by_warps ? held_kernel<Pass, kWarp> : held_kernel<Pass, kThreads>;
    const Tiling whole{batch.size, batch.size, 1, batch.samples, vectors};
    launch(context, kernel, looping_grid(context, batch.samples, together), kThreads, pass, rule, batch.samples, whole);
  } else if (pass.may_want_sums(rule)) {
    relay(context, pass, batch, rule, vectors);
  } else {
    const Tiling tiling = tiling_of<T>(batch, kTileBytes, vectors);
    launch(context, tiles_kernel<Pass>, looping_grid(context, tiling.tiles, 1, Pass::blocks), kThreads, pass, rule,
           tiling);
  }
}

// Whether every sample begins at a multiple of 16 bytes in all operands.
bool begin_at_vectors(const SpdBatch& batch, std::initializer_list<const void*> operands) {
  const int64_t lanes = kVectorBytes / item_size(batch.dtype);
  return (batch.samples == 1 || batch.size % lanes == 0) &&
         std::all_of(operands.begin(), operands.end(),
                     [](const void* data) { return reinterpret_cast<uintptr_t>(data) % kVectorBytes == 0; });
}

}  // namespace

void spd_perturb(const Context& context, const SpdBatch& batch_, const SpdRule& rule, void* out, void* norms) {
  const Range range("fgunlearn::spd_perturb");
  if (batch_.samples == 0) return;
  if (batch_.size == 0) {  // all norms are 0
    if (rule.ball == Ball::none) return;
    const int64_t each = batch_.dtype == DType::f64 ? 8 : 4;
    check(cudaMemsetAsync(norms, 0, static_cast<size_t>(batch_.samples * each), context.stream()), "cudaMemsetAsync");
    return;
  }
  const SpdBatch batch = rule.merged(batch_);
  dispatch(batch.dtype, [&](auto tag) {
    using T = decltype(tag);
    const Forward<T> pass{static_cast<const T*>(batch.x), static_cast<const T*>(batch.g), static_cast<T*>(out),
                          static_cast<typename Forward<T>::A*>(norms)};
    run(context, pass, batch, rule, begin_at_vectors(batch, {batch.x, batch.g, out}));
  });
}

void spd_perturb_backward(const Context& context, const SpdBatch& batch_, const SpdRule& rule, const void* grad,
                          const void* norms, void* dx, void* dg) {
  const Range range("fgunlearn::spd_perturb_backward");
  if (batch_.samples == 0 || batch_.size == 0 || (dx == nullptr && dg == nullptr)) return;
  const SpdBatch batch = rule.merged(batch_);
  dispatch(batch.dtype, [&](auto tag) {
    using T = decltype(tag);
    const Backward<T> pass{static_cast<const T*>(batch.x),
                           static_cast<const T*>(batch.g),
                           static_cast<const T*>(grad),
                           static_cast<const typename Backward<T>::A*>(norms),
                           static_cast<T*>(dx),
                           static_cast<T*>(dg)};
    run(context, pass, batch, rule, begin_at_vectors(batch, {batch.x, batch.g, grad, dx, dg}));
  });
}

}  // namespace fgunlearn::cuda
