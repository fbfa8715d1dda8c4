// Starting kernels.
#pragma once

#include "cuda/context.h"

namespace fgunlearn::cuda {

constexpr int kWarp = 32;
constexpr int kThreads = 256;  // per block, where a kernel's header does not say otherwise

inline unsigned grid_of(int64_t blocks) {
  if (blocks > 0x7fffffffll) throw std::runtime_error("a grid of " + std::to_string(blocks) + " blocks is too large");
  return static_cast<unsigned>(blocks);
}

// Blocks for a kernel that loops over `items`, each block taking `per_block` of them at a time: enough to fill the
// device `waves` blocks deep on each multiprocessor, and no more than there is work for.
inline unsigned looping_grid(const Context& context, int64_t items, int64_t per_block, int waves = 8) {
  const int64_t wanted = (items + per_block - 1) / per_block;
  return grid_of(std::clamp<int64_t>(wanted, 1, int64_t{context.multiprocessors()} * waves));
}

// Parameters are converted to the kernel's own types, so that a literal or an int does not change its layout.
template <typename... Params, typename... Args>
void launch([[maybe_unused]] const Context& context, void (*kernel)(Params...), unsigned blocks, int threads,
            Args&&... args) {
  if (blocks == 0) return;
#if defined(__CUDACC__)
  kernel<<<blocks, static_cast<unsigned>(threads), 0, context.stream()>>>(static_cast<Params>(args)...);
  check(cudaGetLastError(), "kernel launch");
#else
  shim::launch(blocks, static_cast<unsigned>(threads), [&] { kernel(static_cast<Params>(args)...); });
#endif
}

}  // namespace fgunlearn::cuda
