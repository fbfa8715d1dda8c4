#include <cstring>

#include "cuda/launch.h"

namespace fgunlearn::cuda {

namespace {

template <int kBytes>
struct Parcel {
  static_assert(kBytes % 4 == 0);
  uint32_t word[kBytes / 4];
};

template <int kBytes>
__global__ void __launch_bounds__(kThreads)
    store_parcel(const __grid_constant__ Parcel<kBytes> parcel, uint32_t* out, int words) {
  for (int i = static_cast<int>(threadIdx.x); i < words; i += kThreads) out[i] = parcel.word[i];
}

template <int kBytes>
void send_parcel(const Context& context, const unsigned char* from, int64_t bytes, unsigned char* to) {
  Parcel<kBytes> parcel{};
  std::memcpy(&parcel, from, static_cast<size_t>(bytes));
  launch(context, store_parcel<kBytes>, 1u, kThreads, parcel, reinterpret_cast<uint32_t*>(to),
         static_cast<int>(bytes / 4));
}

}  // namespace

void upload(const Context& context, const void* from, int64_t bytes, void* to) {
  constexpr int64_t large = 32000;  // kernel parameters may take 32,764 bytes, from CUDA 12.1 on
  constexpr int64_t small = 2048;
  const auto* host = static_cast<const unsigned char*>(from);
  auto* device = static_cast<unsigned char*>(to);
  for (int64_t begin = 0; begin < bytes; begin += large) {
    const int64_t count = std::min(large, bytes - begin);
    if (count <= small) {
      send_parcel<small>(context, host + begin, count, device + begin);
    } else {
      send_parcel<large>(context, host + begin, count, device + begin);
    }
  }
}

}  // namespace fgunlearn::cuda
