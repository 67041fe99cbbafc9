// The kernels of a pointwise layer, compiled once for each instruction set.
#ifndef REPLK_COMMON_POINTWISE_H_
#define REPLK_COMMON_POINTWISE_H_

#include <cstdint>

#include "common/per_isa.h"
#include "replk/dwconv2d.h"

namespace replk {

// Rows [begin, end) of a call, a `const replk_pointwise*`. The signature is that of parallel_for.
using PointwiseRows = void (*)(void* call, int64_t begin, int64_t end, int thread);

// Indexed by the types of input and output, as replk_dtype.
struct PointwiseKernels {
  PointwiseRows forward[2][2], backward[2][2];
};

REPLK_DECLARE_PER_ISA(extern const PointwiseKernels pointwise_kernels;)

}  // namespace replk

#endif  // REPLK_COMMON_POINTWISE_H_
