// How the output goes to memory.
#ifndef REPLK_CPU_DIRECT_OUTPUT_H_
#define REPLK_CPU_DIRECT_OUTPUT_H_

#include "cpu/direct/geometry.h"

namespace replk {
namespace REPLK_ISA {

// Input and output together: then they come from memory, and waiting for it is what takes the time.
static inline bool is_larger_than_caches(const replk_problem& p) {
  constexpr int64_t kCacheBytes = 12 << 20;
  return p.n * p.c * p.h * p.w * 2 * (p.dtype == REPLK_F32 ? 4 : 2) > kCacheBytes;
}

// Whether all vectors of the output are aligned, as stores past the caches need it.
static inline bool can_stream(const replk_buffers& b, const replk_problem& p) {
  return p.dtype == REPLK_F32 && p.w % kLine == 0 && b.output_stride[0] % kLine == 0 && b.output_stride[1] % kLine == 0 &&
         b.output_stride[2] % kLine == 0 && reinterpret_cast<uintptr_t>(b.output) % 64 == 0;
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_DIRECT_OUTPUT_H_
