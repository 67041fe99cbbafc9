// Vectors at the end of a row, of which only the first lanes exist.
#ifndef REPLK_CPU_COMMON_PARTIAL_H_
#define REPLK_CPU_COMMON_PARTIAL_H_

#include <cstdint>

#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {
namespace {

template <class T>
inline Vec load_up_to(const T* p, int64_t count) {
  return count >= kLanes ? load(p) : load_first(p, static_cast<int>(count));
}
template <class T>
inline void store_up_to(T* p, Vec a, int64_t count) {
  if (count >= kLanes) {
    store(p, a);
  } else {
    store_first(p, a, static_cast<int>(count));
  }
}

}  // namespace
}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_COMMON_PARTIAL_H_
