// Pointwise layers on every instruction set: memory outside of the matrices, and agreement with plain loops.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "common/bfloat16.h"
#include "replk/dwconv2d.h"
#include "tests/checked_call.h"
#include "tests/gelu_exact.h"

namespace {

float activated(float x, int32_t activation) {
  if (activation == REPLK_RELU) return x > 0 ? x : 0;
  if (activation == REPLK_RELU6) return x > 6 ? 6 : x > 0 ? x : 0;
  if (activation == REPLK_GELU) return static_cast<float>(replk_tests::exact_gelu(x).value);
  return x;
}

float slope(float x, int32_t activation) {
  if (activation == REPLK_RELU) return x > 0;
  if (activation == REPLK_RELU6) return x > 0 && x < 6;
  return static_cast<float>(replk_tests::exact_gelu(x).derivative);
}

// Rows of `columns` elements, the last of which ends with the buffer, so that AddressSanitizer finds any access
// outside.
template <class T>
std::vector<T> matrix(int64_t rows, int64_t stride, int64_t columns) {
  return std::vector<T>(static_cast<size_t>(rows == 0 ? 0 : (rows - 1) * stride + columns), T{});
}

bool check(int32_t isa, int32_t threads, int32_t activation, bool narrow, int64_t rows, int64_t columns) {
  const int64_t stride = columns + 3;
  std::vector<float> x = matrix<float>(rows, stride, columns), y = x, bias(static_cast<size_t>(rows), 0.25f);
  std::vector<uint16_t> kept = matrix<uint16_t>(rows, stride, columns), narrow_y = kept;
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 257) / 16.0f - 8.0f;
  replk_pointwise call = {};
  call.rows = rows, call.columns = columns, call.activation = activation;
  call.input = x.data(), call.bias = bias.data(), call.derivative = kept.data();
  call.input_stride = call.output_stride = call.derivative_stride = stride;
  call.output_dtype = narrow ? REPLK_BF16 : REPLK_F32;
  call.output = narrow ? static_cast<void*>(narrow_y.data()) : y.data();
  bool passed = replk_pointwise_forward(isa, threads, &call) == REPLK_OK;
  const auto at = [&](size_t i) { return narrow ? replk::bfloat16_to_float(narrow_y[i]) : y[i]; };
  const auto each = [&](auto expected, float relative, float absolute) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t j = 0; j < columns; ++j) {
        const size_t i = static_cast<size_t>(row * stride + j);
        const float want = expected(x[i]), error = std::fabs(at(i) - want);
        passed = passed && error <= relative * std::fabs(want) + absolute;
      }
    }
  };
  const float rounding = narrow ? 1.0f / 200 : 1e-5f;
  each([&](float value) { return activated(value + 0.25f, activation); }, rounding, 1e-6f);
  if (activation != REPLK_NO_ACTIVATION) {
    passed = passed && replk_pointwise_backward(isa, threads, &call) == REPLK_OK;
    each([&](float value) { return value * slope(value + 0.25f, activation); }, rounding, 1e-4f);
  }
  if (!passed) {
    std::fprintf(stderr, "FAILED pointwise: isa %d, %d threads, activation %d, %lld x %lld\n", isa, threads, activation,
                 static_cast<long long>(rows), static_cast<long long>(columns));
  }
  return passed;
}

}  // namespace

int main() {
  int ran = 0;
  bool passed = true;
  for (const int32_t isa : replk_tests::isas_and_auto()) {
    for (const int32_t threads : {1, 3}) {
      for (int32_t activation = REPLK_NO_ACTIVATION; activation <= REPLK_RELU6; ++activation) {
        for (const bool narrow : {false, true}) {
          for (const int64_t rows : {0, 1, 5}) {
            for (const int64_t columns : {0, 1, 3, 4, 15, 16, 17, 33, 100}) {
              passed = check(isa, threads, activation, narrow, rows, columns) && passed;
              ++ran;
            }
          }
        }
      }
    }
  }
  std::printf("%d calls of pointwise layers, %s\n", ran, passed ? "all passed" : "some FAILED");
  return passed ? 0 : 1;
}
