#include "host/patch.h"

#include <algorithm>
#include <cstring>

namespace fgunlearn::host {

namespace {

constexpr int kLongest = 9;    // bytes of 63 bits
constexpr int64_t kBlock = 8;  // words compared at once

}  // namespace

bool GapReader::read(int64_t* position, Flaw* flaw) {
  if (flaw_.empty() && next_position(position)) return true;
  *flaw = flaw_;
  return false;
}

bool GapReader::next_position(int64_t* position) {
  uint64_t gap = 0;
  int length = 0;
  for (;;) {
    if (next_ == end_) {
      flaw_ = "positions end too early";
      return false;
    }
    const uint8_t byte = *next_++;
    gap |= uint64_t{byte & 0x7fu} << (7 * length);
    ++length;
    if (byte < 0x80) {
      if (byte == 0 && length > 1) {
        flaw_ = "a position is written with more bytes than it needs";
        return false;
      }
      break;
    }
    if (length == kLongest) {
      flaw_ = "a position has more than 63 bits";
      return false;
    }
  }
  if (last_ >= 0 && gap == 0) {
    flaw_ = "index " + std::to_string(last_) + " comes twice";
    return false;
  }
  // Nine bytes are at most 2**63 - 1, and so is last_: the sum fits into 64 bits without a sign.
  const uint64_t sum = gap + static_cast<uint64_t>(std::max<int64_t>(last_, 0));
  if (sum >= static_cast<uint64_t>(numel_)) {
    flaw_ = "index " + std::to_string(sum) + " is out of range for " + std::to_string(numel_) + " elements";
    return false;
  }
  last_ = static_cast<int64_t>(sum);
  *position = last_;
  return true;
}

Flaw check_gaps(const uint8_t* begin, const uint8_t* end, int64_t count, int64_t numel) {
  GapReader gaps(begin, end, numel);
  Flaw flaw;
  int64_t position = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (!gaps.read(&position, &flaw)) return flaw;
  }
  if (!gaps.at_end()) return std::to_string(gaps.bytes_left()) + " bytes follow the last position";
  return {};
}

bool Differences::add(const uint8_t* old_values, const uint8_t* new_values, int64_t count) {
  const int64_t before = count_;
  switch (width_) {
    case 1:
      scan<uint8_t>(old_values, new_values, count);
      break;
    case 2:
      scan<uint16_t>(old_values, new_values, count);
      break;
    case 4:
      scan<uint32_t>(old_values, new_values, count);
      break;
    default:
      scan<uint64_t>(old_values, new_values, count);
  }
  seen_ += count;
  return count_ != before;
}

template <typename Word>
void Differences::scan(const uint8_t* old_values, const uint8_t* new_values, int64_t count) {
  constexpr int64_t kBytes = kBlock * sizeof(uint64_t);
  constexpr int64_t kElements = kBytes / sizeof(Word);
  int64_t i = 0;
  while (i < count) {
    const int64_t here = std::min(kElements, count - i);
    const uint8_t* a = old_values + i * sizeof(Word);
    const uint8_t* b = new_values + i * sizeof(Word);
    if (here == kElements) {  // most blocks are equal: one test for each
      uint64_t x[kBlock], y[kBlock], any = 0;
      std::memcpy(x, a, kBytes);
      std::memcpy(y, b, kBytes);
      for (int64_t j = 0; j < kBlock; ++j) any |= x[j] ^ y[j];
      if (any == 0) {
        i += here;
        continue;
      }
    }
    for (int64_t j = 0; j < here; ++j) {
      if (std::memcmp(a + j * sizeof(Word), b + j * sizeof(Word), sizeof(Word)) != 0) {
        append(seen_ + i + j, a + j * sizeof(Word), b + j * sizeof(Word));
      }
    }
    i += here;
  }
}

void Differences::append(int64_t position, const uint8_t* old_value, const uint8_t* new_value) {
  uint64_t gap = static_cast<uint64_t>(position - std::max<int64_t>(last_, 0));
  for (; gap >= 0x80; gap >>= 7) gaps_.push_back(static_cast<uint8_t>(gap | 0x80));
  gaps_.push_back(static_cast<uint8_t>(gap));
  old_.insert(old_.end(), old_value, old_value + width_);
  new_.insert(new_.end(), new_value, new_value + width_);
  last_ = position;
  ++count_;
}

// Whether the tensor has so many more elements; so no position overflows.
bool Exchange::has(int64_t count, Flaw* flaw) const {
  const int64_t left = gaps_.numel() - first_;
  if (count > left)
    *flaw = "a piece of " + std::to_string(count) + " elements is beyond the tensor's last " + std::to_string(left);
  return count <= left;
}

bool Exchange::look_ahead(Flaw* flaw) { return position_ >= 0 || done_ == count_ || gaps_.read(&position_, flaw); }

bool Exchange::next_changes(int64_t count, Flaw* flaw) {
  if (!has(count, flaw) || !look_ahead(flaw)) return false;
  if (done_ < count_ && position_ - first_ < count) return true;
  first_ += count;
  return false;
}

void Exchange::put(uint8_t* piece, int64_t count, bool check, Flaw* flaw) {
  if (!has(count, flaw)) return;
  while (look_ahead(flaw) && done_ < count_ && position_ - first_ < count) {
    uint8_t* place = piece + (position_ - first_) * width_;
    if (check && std::memcmp(place, from_ + done_ * width_, width_) != 0) {
      *flaw = "element " + std::to_string(position_) + " is not what the patch says was there";
      return;
    }
    std::memcpy(place, to_ + done_ * width_, width_);
    ++done_;
    position_ = -1;
  }
  first_ += count;
}

}  // namespace fgunlearn::host
