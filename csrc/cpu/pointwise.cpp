// Bias, activation and residual of a matrix product, with the derivative of the activation, and the product with that
// derivative in the backward pass.
//
// A derivative d is stored in 16 bits as round(49152 (d + 3/16)). Derivatives of GELU are between -0.13 and 1.13, so
// that the error is at most 2^-16 / 1.5, and those of ReLU and ReLU6, which are 0 or 1, are exact.
#include "common/pointwise.h"

#include <cstdint>

#include "cpu/common/normal.h"
#include "cpu/common/partial.h"
#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {
namespace {

constexpr float kScale = 49152.0f, kInverse = 1.0f / 49152.0f;
// A float of this size has no fraction: its lowest bits are the integer. 9216 is 3/16 of the scale.
constexpr float kInteger = 8388608.0f + 9216.0f;

struct Activated {
  Vec value, derivative;
};

template <int kActivation>
inline Activated activate(Vec x) {
  const Vec one = broadcast(1.0f);
  if (kActivation == REPLK_GELU) {
    const Normal at = normal(x);
    return {x * at.distribution, gelu_derivative(x, at)};
  }
  const Vec positive = relu(x);
  if (kActivation == REPLK_RELU) return {positive, by_sign(zero() - positive, one, zero())};
  const Vec limited = at_most(positive, 6.0f);
  return {limited, by_sign(zero() - limited, by_sign(limited - broadcast(6.0f), one, zero()), zero())};
}

template <class In, class Out, int kActivation>
void forward_rows(const replk_pointwise& call, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const In* input = static_cast<const In*>(call.input) + row * call.input_stride;
    Out* output = static_cast<Out*>(call.output) + row * call.output_stride;
    const float* residual = call.residual ? call.residual + row * call.residual_stride : nullptr;
    uint16_t* derivative = call.derivative ? call.derivative + row * call.derivative_stride : nullptr;
    const bool by_column = call.bias && call.bias_of_columns;
    const Vec shift = call.bias && !by_column ? broadcast(call.bias[row]) : zero();
    for (int64_t j = 0; j < call.columns; j += kLanes) {
      const int64_t count = call.columns - j;
      Vec value = load_up_to(input + j, count) + (by_column ? load_up_to(call.bias + j, count) : shift);
      if (kActivation != REPLK_NO_ACTIVATION) {
        const Activated found = activate<kActivation>(value);
        value = found.value;
        if (derivative) {
          const Vec integer = fma(found.derivative, broadcast(kScale), broadcast(kInteger));
          store_low_bits(derivative + j, integer, count < kLanes ? static_cast<int>(count) : kLanes);
        }
      }
      if (residual) value = value + load_up_to(residual + j, count);
      store_up_to(output + j, value, count);
    }
  }
}

template <class In, class Out>
void forward(void* context, int64_t begin, int64_t end, int) {
  const replk_pointwise& call = *static_cast<const replk_pointwise*>(context);
  switch (call.activation) {
    case REPLK_RELU:
      return forward_rows<In, Out, REPLK_RELU>(call, begin, end);
    case REPLK_GELU:
      return forward_rows<In, Out, REPLK_GELU>(call, begin, end);
    case REPLK_RELU6:
      return forward_rows<In, Out, REPLK_RELU6>(call, begin, end);
    default:
      return forward_rows<In, Out, REPLK_NO_ACTIVATION>(call, begin, end);
  }
}

template <class In, class Out>
void backward(void* context, int64_t begin, int64_t end, int) {
  const replk_pointwise& call = *static_cast<const replk_pointwise*>(context);
  for (int64_t row = begin; row < end; ++row) {
    const In* input = static_cast<const In*>(call.input) + row * call.input_stride;
    Out* output = static_cast<Out*>(call.output) + row * call.output_stride;
    const uint16_t* derivative = call.derivative + row * call.derivative_stride;
    for (int64_t j = 0; j < call.columns; j += kLanes) {
      const int64_t count = call.columns - j;
      const Vec integer = load_low_bits(derivative + j, count < kLanes ? static_cast<int>(count) : kLanes);
      const Vec scaled = (integer - broadcast(kInteger)) * broadcast(kInverse);
      // A derivative of zero blocks an infinite gradient: the product would be NaN.
      const Vec product = load_up_to(input + j, count) * scaled;
      store_up_to(output + j, by_sign(zero() - scaled * scaled, product, zero()), count);
    }
  }
}

}  // namespace

extern const PointwiseKernels pointwise_kernels = {
    {{forward<float, float>, forward<float, uint16_t>}, {forward<uint16_t, float>, forward<uint16_t, uint16_t>}},
    {{backward<float, float>, backward<float, uint16_t>}, {backward<uint16_t, float>, backward<uint16_t, uint16_t>}},
};

}  // namespace REPLK_ISA
}  // namespace replk
