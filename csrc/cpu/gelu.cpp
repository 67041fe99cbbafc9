// GELU and its gradient with sums over rows.
#include "common/gelu.h"

#include <cstdint>

#include "cpu/common/normal.h"
#include "cpu/common/partial.h"
#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {
namespace {

// The sum of term(offset, number of elements from there to the end), a vector, over a row. Sums of at most 64 terms for
// each lane are in float32, all others in double.
template <class Term>
inline double sum_over_row(int64_t columns, Term term) {
  constexpr int64_t kBlock = 64 * kLanes;
  double total = 0;
  for (int64_t block = 0; block < columns; block += kBlock) {
    const int64_t end = columns < block + kBlock ? columns : block + kBlock;
    Vec partial = zero();
    for (int64_t j = block; j < end; j += kLanes) partial = partial + term(j, columns - j);
    total += static_cast<double>(sum(partial));
  }
  return total;
}

void forward(void* context, int64_t begin, int64_t end, int) {
  const GeluCall& call = *static_cast<const GeluCall*>(context);
  for (int64_t row = begin; row < end; ++row) {
    const float* input = call.input + row * call.columns;
    float* output = call.output + row * call.columns;
    call.sums[row] = sum_over_row(call.columns, [=](int64_t j, int64_t count) {
      const Vec x = load_up_to(input + j, count), y = x * normal(x).distribution;
      store_up_to(output + j, y, count);
      return y * y;
    });
  }
}

void products(void* context, int64_t begin, int64_t end, int) {
  const GeluCall& call = *static_cast<const GeluCall*>(context);
  for (int64_t row = begin; row < end; ++row) {
    const float* input = call.input + row * call.columns;
    const float* grad = call.grad + row * call.columns;
    call.sums[row] = sum_over_row(call.columns, [=](int64_t j, int64_t count) {
      const Vec x = load_up_to(input + j, count);
      return x * normal(x).distribution * load_up_to(grad + j, count);
    });
  }
}

void grad_input(void* context, int64_t begin, int64_t end, int) {
  const GeluCall& call = *static_cast<const GeluCall*>(context);
  for (int64_t row = begin; row < end; ++row) {
    const float* input = call.input + row * call.columns;
    const float* grad = call.grad + row * call.columns;
    float* output = call.output + row * call.columns;
    const Vec grad_scale = broadcast(call.grad_scale[row]), output_scale = broadcast(call.output_scale[row]);
    for (int64_t j = 0; j < call.columns; j += kLanes) {
      const int64_t count = call.columns - j;
      const Vec x = load_up_to(input + j, count), given = load_up_to(grad + j, count);
      const Normal at = normal(x);
      store_up_to(output + j, gelu_derivative(x, at) * fma(grad_scale, given, output_scale * (x * at.distribution)),
                  count);
    }
  }
}

}  // namespace

extern const GeluKernels gelu_kernels = {forward, products, grad_input};

}  // namespace REPLK_ISA
}  // namespace replk
