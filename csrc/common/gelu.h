// The buffers of a GELU call, and the kernels that are compiled once for each instruction set.
#ifndef REPLK_COMMON_GELU_H_
#define REPLK_COMMON_GELU_H_

#include <cstdint>

#include "common/per_isa.h"

namespace replk {

struct GeluCall {
  int64_t columns;
  const float* input;
  const float* grad;
  const float* grad_scale;
  const float* output_scale;
  float* output;
  double* sums;
};

// Rows [begin, end) of a call, each computed in one way for every partition. The signature is that of parallel_for.
using GeluRows = void (*)(void* call, int64_t begin, int64_t end, int thread);

struct GeluKernels {
  GeluRows forward, products, grad_input;
};

REPLK_DECLARE_PER_ISA(extern const GeluKernels gelu_kernels;)

}  // namespace replk

#endif  // REPLK_COMMON_GELU_H_
