// Forget patches (docs/patch-format.md): the values that differ between two tensors of the same shape, found and
// exchanged bit for bit. Plain memory, no torch, no Python.
//
// Positions are written as gaps: the first as it is, each further one as its distance from the one before, in LEB128,
// seven bits to a byte, low ones first. At one changed value in a thousand a gap takes two bytes.
//
// Bytes moved: finding differences reads both tensors once; exchanging values touches the changed ones and the gaps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fgunlearn::host {

// What is wrong with gaps; the empty string for nothing.
using Flaw = std::string;

// Positions of changed values, one after the other. Never reads beyond [begin, end), whatever the bytes are, and never
// yields a position that is not above the last one and below numel.
class GapReader {
 public:
  GapReader(const uint8_t* begin, const uint8_t* end, int64_t numel) : next_(begin), end_(end), numel_(numel) {}

  bool at_end() const { return next_ == end_; }
  int64_t bytes_left() const { return end_ - next_; }
  int64_t numel() const { return numel_; }

  // Moves to the next position; false leaves a flaw. After the first flaw there is no further position: whoever reads
  // on gets the same flaw again, and Exchange never sees a position behind its piece.
  bool read(int64_t* position, Flaw* flaw);

 private:
  bool next_position(int64_t* position);

  const uint8_t* next_;
  const uint8_t* end_;
  int64_t numel_;
  int64_t last_ = -1;
  Flaw flaw_;
};

// Whether gaps are exactly `count` positions of a tensor with `numel` elements, in the one way there is to write them.
Flaw check_gaps(const uint8_t* begin, const uint8_t* end, int64_t count, int64_t numel);

// Collects the differences of two tensors that come in pieces.
class Differences {
 public:
  explicit Differences(int width) : width_(width) {}

  // The next `count` elements of both, `width` bytes each; whether any of them differ.
  bool add(const uint8_t* old_values, const uint8_t* new_values, int64_t count);

  int width() const { return width_; }
  int64_t count() const { return count_; }
  const std::vector<uint8_t>& gaps() const { return gaps_; }
  const std::vector<uint8_t>& old_values() const { return old_; }
  const std::vector<uint8_t>& new_values() const { return new_; }

 private:
  template <typename Word>
  void scan(const uint8_t* old_values, const uint8_t* new_values, int64_t count);
  void append(int64_t position, const uint8_t* old_value, const uint8_t* new_value);

  int width_;
  int64_t seen_ = 0;
  int64_t last_ = -1;
  int64_t count_ = 0;
  std::vector<uint8_t> gaps_, old_, new_;
};

// Puts changed values into a tensor that comes in pieces. Writes inside the piece alone, whatever the gaps are.
class Exchange {
 public:
  // `from` and `to`: the values that are there and those to put there, `count` of `width` bytes each.
  Exchange(GapReader gaps, const uint8_t* from, const uint8_t* to, int64_t count, int width)
      : gaps_(gaps), from_(from), to_(to), count_(count), width_(width) {}

  // Moves on by `count` elements, if none of them changes; else stays and returns true.
  bool next_changes(int64_t count, Flaw* flaw);

  // The same elements, changed in place. With `check`, what is there must be what `from` says.
  void put(uint8_t* piece, int64_t count, bool check, Flaw* flaw);

 private:
  bool has(int64_t count, Flaw* flaw) const;
  bool look_ahead(Flaw* flaw);

  GapReader gaps_;
  const uint8_t* from_;
  const uint8_t* to_;
  int64_t count_;
  int width_;
  int64_t first_ = 0;      // of the next piece
  int64_t position_ = -1;  // read but not yet passed; -1 where nothing is
  int64_t done_ = 0;       // values passed
};

}  // namespace fgunlearn::host
