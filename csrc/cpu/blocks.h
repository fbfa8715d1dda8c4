// Cutting lists of segments into work items.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/segment.h"

namespace fgunlearn::cpu {

// Elements [begin, end) of item `segment` of a list.
struct Piece {
  int64_t segment;
  int64_t begin;
  int64_t end;
};

// The items of a list with the given sizes, cut into pieces of at most `limit` elements; empty items give none.
template <typename SizeOf>
std::vector<Piece> cut(int64_t items, int64_t limit, SizeOf&& size_of) {
  std::vector<Piece> pieces;
  for (int64_t item = 0; item < items; ++item) {
    const int64_t size = size_of(item);
    for (int64_t begin = 0; begin < size; begin += limit) {
      pieces.push_back({item, begin, std::min(size, begin + limit)});
    }
  }
  return pieces;
}

constexpr int64_t kPieceOfIndices = int64_t{1} << 14;  // selected coordinates of one work item

inline std::vector<Piece> cut(const std::vector<IndexList>& lists) {
  return cut(static_cast<int64_t>(lists.size()), kPieceOfIndices, [&](int64_t t) { return lists[t].count; });
}

}  // namespace fgunlearn::cpu
