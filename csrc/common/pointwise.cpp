// The exported functions of pointwise layers: check the arguments, choose the kernels, distribute the rows.
#include "common/pointwise.h"

#include <initializer_list>

#include "common/parallel.h"

namespace replk {
namespace {

const PointwiseKernels* kernels_for(int32_t isa) {
  if (isa == REPLK_ISA_AUTO) isa = best_isa();
  return can_run(isa) ? REPLK_CHOOSE(isa, pointwise_kernels) : nullptr;
}

bool is_dtype(int32_t dtype) { return dtype == REPLK_F32 || dtype == REPLK_BF16; }

// Whether sizes, strides and types are valid; buffers are needed unless the matrix is empty.
bool is_valid(const replk_pointwise& call, int32_t threads, bool is_backward) {
  constexpr int64_t kMaxElements = int64_t{1} << 40;  // as for convolutions: no index can overflow
  const int64_t rows = call.rows, columns = call.columns;
  if (threads < 1 || threads > 1024 || rows < 0 || columns < 0) return false;
  if (!is_dtype(call.input_dtype) || !is_dtype(call.output_dtype)) return false;
  if (call.activation < REPLK_NO_ACTIVATION || call.activation > REPLK_RELU6) return false;
  if (rows == 0 || columns == 0) return true;
  for (const int64_t stride : {call.input_stride, call.output_stride, call.residual ? call.residual_stride : columns,
                               call.derivative ? call.derivative_stride : columns}) {
    if (stride < columns || stride > kMaxElements / rows) return false;
  }
  return call.input && call.output && (!is_backward || call.derivative);
}

}  // namespace
}  // namespace replk

using namespace replk;

int32_t replk_pointwise_forward(int32_t isa, int32_t threads, const replk_pointwise* call) {
  const PointwiseKernels* kernels = kernels_for(isa);
  if (!call || !kernels || !is_valid(*call, threads, false)) return REPLK_INVALID_ARGUMENT;
  replk_pointwise copy = *call;
  if (copy.columns > 0) parallel_for(copy.rows, threads, kernels->forward[copy.input_dtype][copy.output_dtype], &copy);
  return REPLK_OK;
}

int32_t replk_pointwise_backward(int32_t isa, int32_t threads, const replk_pointwise* call) {
  const PointwiseKernels* kernels = kernels_for(isa);
  if (!call || !kernels || !is_valid(*call, threads, true)) return REPLK_INVALID_ARGUMENT;
  replk_pointwise copy = *call;
  if (copy.columns > 0) parallel_for(copy.rows, threads, kernels->backward[copy.input_dtype][copy.output_dtype], &copy);
  return REPLK_OK;
}
