// SHA-256 (FIPS 180-4) of two streams of one length at a time: a tensor before and after a patch.
//
// The processor's SHA instructions wait for each other within a stream: a round takes its latency, and the unit idles.
// The rounds of a second stream fit in between. Bytes moved: both streams once; the rest is registers.
//
// Only for processors with these instructions (supported()); elsewhere hashlib, two streams one after the other.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace fgunlearn::host {

class Sha256Pair {
 public:
  // Whether this processor has the instructions; nothing else here may be called without.
  static bool supported();

  // The next `size` bytes of both. As long as both pointers are always equal, there is one stream, and work for one.
  void update(const uint8_t* first, const uint8_t* second, int64_t size);

  // Of what came so far, in hexadecimal digits.
  std::array<std::string, 2> hexdigests() const;

 private:
  static constexpr int kBlock = 64;  // bytes

  struct Stream {
    // The words a to h of the standard in the order of the instructions: f, e, b, a and h, g, d, c.
    uint32_t feba[4] = {0x9b05688c, 0x510e527f, 0xbb67ae85, 0x6a09e667};
    uint32_t hgdc[4] = {0x5be0cd19, 0x1f83d9ab, 0xa54ff53a, 0x3c6ef372};
    uint8_t rest[kBlock];  // no whole block yet
  };

  template <int streams>
  static void compress(Stream* into, std::array<const uint8_t*, streams> data, int64_t blocks);
  static std::string finish(Stream stream, int64_t bytes);

  void compress_all(const uint8_t* first, const uint8_t* second, int64_t blocks);

  std::array<Stream, 2> streams_;
  bool one_ = true;  // the second is the first, and not kept
  int64_t bytes_ = 0;
};

}  // namespace fgunlearn::host
