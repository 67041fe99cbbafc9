// The kernels of a pointwise layer, compiled once for each instruction set.
#ifndef REPLK_COMMON_POINTWISE_H_
#define REPLK_COMMON_POINTWISE_H_

#include <cstdint>

#include "common/cpuid.h"
#include "replk/dwconv2d.h"

namespace replk {

// Rows [begin, end) of a call, a `const replk_pointwise*`. The signature is that of parallel_for.
using PointwiseRows = void (*)(void* call, int64_t begin, int64_t end, int thread);

// Indexed by the types of input and output, as replk_dtype.
struct PointwiseKernels {
  PointwiseRows forward[2][2], backward[2][2];
};

namespace portable {
extern const PointwiseKernels pointwise_kernels;
}
#if REPLK_HAS_AVX2
namespace avx2 {
extern const PointwiseKernels pointwise_kernels;
}
#endif
#if REPLK_HAS_AVX512
namespace avx512 {
extern const PointwiseKernels pointwise_kernels;
}
#endif
#if REPLK_HAS_NEON
namespace neon {
extern const PointwiseKernels pointwise_kernels;
}
#endif

}  // namespace replk

#endif  // REPLK_COMMON_POINTWISE_H_
