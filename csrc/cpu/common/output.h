// How the output is written to memory.
#ifndef REPLK_CPU_COMMON_OUTPUT_H_
#define REPLK_CPU_COMMON_OUTPUT_H_

#include "cpu/common/geometry.h"

namespace replk {
namespace REPLK_ISA {

// Input and output together.
static inline int64_t bytes_of_planes(const replk_problem& p) {
  return p.n * p.c * p.h * p.w * 2 * (p.dtype == REPLK_F32 ? 4 : 2);
}

// Whether planes come from main memory, whose latency then dominates. Prefetching saves 10 to 50 % above this size;
// below it, prefetching costs more than it saves (5 % at 6 MB, 3x3).
static inline bool is_larger_than_caches(const replk_problem& p) { return bytes_of_planes(p) > (12 << 20); }

// Whether all vectors of the output are aligned, which non-temporal stores require.
static inline bool can_stream(const replk_buffers& b, const replk_problem& p) {
  return p.dtype == REPLK_F32 && p.w % kLine == 0 && b.output_stride[0] % kLine == 0 &&
         b.output_stride[1] % kLine == 0 && b.output_stride[2] % kLine == 0 &&
         reinterpret_cast<uintptr_t>(b.output) % 64 == 0;
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_COMMON_OUTPUT_H_
