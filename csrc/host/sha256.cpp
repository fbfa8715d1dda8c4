#include "host/sha256.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace fgunlearn::host {

#if defined(__x86_64__)

namespace {

alignas(16) constexpr uint32_t kRound[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

}  // namespace

bool Sha256Pair::supported() {
  unsigned a, b, c, d;
  const bool sse41 = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_SSE4_1) && (c & bit_SSSE3);
  return sse41 && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}

// Sixteen times four rounds. w holds the last sixteen words of the message schedule, four to a register.
template <int streams>
__attribute__((target("sha,sse4.1,ssse3"))) void Sha256Pair::compress(Stream* into,
                                                                      std::array<const uint8_t*, streams> data,
                                                                      int64_t blocks) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  __m128i feba[streams], hgdc[streams];
  for (int s = 0; s < streams; ++s) {
    feba[s] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(into[s].feba));
    hgdc[s] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(into[s].hgdc));
  }
  for (int64_t block = 0; block < blocks; ++block) {
    __m128i w[streams][4], feba_before[streams], hgdc_before[streams];
    for (int s = 0; s < streams; ++s) {
      const auto* words = reinterpret_cast<const __m128i*>(data[s] + block * kBlock);
      for (int i = 0; i < 4; ++i) w[s][i] = _mm_shuffle_epi8(_mm_loadu_si128(words + i), big_endian);
      feba_before[s] = feba[s];
      hgdc_before[s] = hgdc[s];
    }
#pragma GCC unroll 16
    for (int four = 0; four < 16; ++four) {
      const __m128i k = _mm_load_si128(reinterpret_cast<const __m128i*>(kRound) + four);
#pragma GCC unroll 2
      for (int s = 0; s < streams; ++s) {
        __m128i& oldest = w[s][four % 4];
        const __m128i second = w[s][(four + 1) % 4], third = w[s][(four + 2) % 4], newest = w[s][(four + 3) % 4];
        const __m128i sum = _mm_add_epi32(oldest, k);
        hgdc[s] = _mm_sha256rnds2_epu32(hgdc[s], feba[s], sum);
        feba[s] = _mm_sha256rnds2_epu32(feba[s], hgdc[s], _mm_shuffle_epi32(sum, 0x0e));
        if (four < 12) {
          const __m128i partial =
              _mm_add_epi32(_mm_sha256msg1_epu32(oldest, second), _mm_alignr_epi8(newest, third, 4));
          oldest = _mm_sha256msg2_epu32(partial, newest);
        }
      }
    }
    for (int s = 0; s < streams; ++s) {
      feba[s] = _mm_add_epi32(feba[s], feba_before[s]);
      hgdc[s] = _mm_add_epi32(hgdc[s], hgdc_before[s]);
    }
  }
  for (int s = 0; s < streams; ++s) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(into[s].feba), feba[s]);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(into[s].hgdc), hgdc[s]);
  }
}

#else

bool Sha256Pair::supported() { return false; }

template <int streams>
void Sha256Pair::compress(Stream*, std::array<const uint8_t*, streams>, int64_t) {}

#endif

void Sha256Pair::compress_all(const uint8_t* first, const uint8_t* second, int64_t blocks) {
  if (one_) {
    compress<1>(streams_.data(), {first}, blocks);
  } else {
    compress<2>(streams_.data(), {first, second}, blocks);
  }
}

void Sha256Pair::update(const uint8_t* first, const uint8_t* second, int64_t size) {
  if (size == 0) return;
  if (one_ && first != second) {
    streams_[1] = streams_[0];
    one_ = false;
  }
  const int64_t held = bytes_ % kBlock;
  bytes_ += size;
  if (held > 0) {
    const int64_t more = std::min(kBlock - held, size);
    std::memcpy(streams_[0].rest + held, first, more);
    if (!one_) std::memcpy(streams_[1].rest + held, second, more);
    if (held + more < kBlock) return;
    compress_all(streams_[0].rest, streams_[1].rest, 1);
    first += more;
    second += more;
    size -= more;
  }
  const int64_t blocks = size / kBlock, rest = size % kBlock;
  if (blocks > 0) compress_all(first, second, blocks);
  std::memcpy(streams_[0].rest, first + blocks * kBlock, rest);
  if (!one_) std::memcpy(streams_[1].rest, second + blocks * kBlock, rest);
}

// The standard's padding: a bit, zeros, and how many bits there were in the last eight bytes of a block.
std::string Sha256Pair::finish(Stream stream, int64_t bytes) {
  uint8_t end[2 * kBlock] = {};
  const int64_t held = bytes % kBlock;
  std::memcpy(end, stream.rest, held);
  end[held] = 0x80;
  const int64_t blocks = held + 9 > kBlock ? 2 : 1;
  for (int i = 0; i < 8; ++i) end[blocks * kBlock - 1 - i] = static_cast<uint8_t>(uint64_t(bytes) * 8 >> (8 * i));
  compress<1>(&stream, {end}, blocks);
  const uint32_t words[8] = {stream.feba[3], stream.feba[2], stream.hgdc[3], stream.hgdc[2],
                             stream.feba[1], stream.feba[0], stream.hgdc[1], stream.hgdc[0]};
  std::string digits;
  for (const uint32_t word : words) {
    for (int shift = 28; shift >= 0; shift -= 4) digits.push_back("0123456789abcdef"[word >> shift & 15]);
  }
  return digits;
}

std::array<std::string, 2> Sha256Pair::hexdigests() const {
  const std::string first = finish(streams_[0], bytes_);
  return {first, one_ ? first : finish(streams_[1], bytes_)};
}

}  // namespace fgunlearn::host
