// The exported functions of GELU: check the arguments, choose the kernels, distribute the rows.
#include "common/gelu.h"

#include "common/parallel.h"

namespace replk {
namespace {

// The kernels of a valid call, or null.
const GeluKernels* kernels_for(int32_t isa, int32_t threads, int64_t rows, int64_t columns) {
  constexpr int64_t kMaxElements = int64_t{1} << 40;  // as for convolutions: no index can overflow
  if (threads < 1 || threads > 1024 || rows < 0 || columns < 0) {
    return nullptr;
  }
  if (rows > kMaxElements || (rows > 0 && columns > kMaxElements / rows)) return nullptr;
  if (isa == REPLK_ISA_AUTO) isa = best_isa();
  return can_run(isa) ? REPLK_CHOOSE(isa, gelu_kernels) : nullptr;
}

}  // namespace
}  // namespace replk

using namespace replk;

int32_t replk_gelu_forward(int32_t isa, int32_t threads, int64_t rows, int64_t columns, const float* input,
                           float* output, double* squares) {
  const GeluKernels* kernels = kernels_for(isa, threads, rows, columns);
  if (!kernels || (rows > 0 && (!squares || (columns > 0 && (!input || !output))))) return REPLK_INVALID_ARGUMENT;
  GeluCall call{columns, input, nullptr, nullptr, nullptr, output, squares};
  parallel_for(rows, threads, kernels->forward, &call);
  return REPLK_OK;
}

int32_t replk_gelu_products(int32_t isa, int32_t threads, int64_t rows, int64_t columns, const float* input,
                            const float* grad, double* products) {
  const GeluKernels* kernels = kernels_for(isa, threads, rows, columns);
  if (!kernels || (rows > 0 && (!products || (columns > 0 && (!input || !grad))))) return REPLK_INVALID_ARGUMENT;
  GeluCall call{columns, input, grad, nullptr, nullptr, nullptr, products};
  parallel_for(rows, threads, kernels->products, &call);
  return REPLK_OK;
}

int32_t replk_gelu_grad_input(int32_t isa, int32_t threads, int64_t rows, int64_t columns, const float* input,
                              const float* grad, const float* grad_scale, const float* output_scale, float* output) {
  const GeluKernels* kernels = kernels_for(isa, threads, rows, columns);
  const bool is_empty = rows == 0 || columns == 0;
  if (!kernels || (!is_empty && (!input || !grad || !grad_scale || !output_scale || !output))) {
    return REPLK_INVALID_ARGUMENT;
  }
  GeluCall call{columns, input, grad, grad_scale, output_scale, output, nullptr};
  parallel_for(is_empty ? 0 : rows, threads, kernels->grad_input, &call);
  return REPLK_OK;
}
