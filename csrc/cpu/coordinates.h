// Walking the selected coordinates of one tensor: the width of its indices and its layout are settled once per piece,
// not once per coordinate.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/segment.h"

namespace fgunlearn::cpu {

// Where coordinates lie in a contiguous tensor: the index is the place. LayoutCursor is its counterpart for others.
struct Direct {
  explicit Direct(const Layout&) {}
  int64_t at(int64_t index) const { return index; }
};

// Calls body with the list's first index, as a pointer to int32_t or int64_t.
template <typename Body>
inline decltype(auto) with_indices(const IndexList& list, Body&& body) {
  if (list.wide) return body(static_cast<const int64_t*>(list.data));
  return body(static_cast<const int32_t*>(list.data));
}

// The same, and a std::type_identity of the way to find places: Direct or LayoutCursor.
template <typename Body>
inline void with_places(const IndexList& list, bool contiguous, Body&& body) {
  with_indices(list, [&](const auto* index) {
    if (contiguous) {
      body(index, std::type_identity<Direct>{});
    } else {
      body(index, std::type_identity<LayoutCursor>{});
    }
  });
}

}  // namespace fgunlearn::cpu
