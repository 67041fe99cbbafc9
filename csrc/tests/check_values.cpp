// Special values in every kernel: what is not finite never becomes finite and stays in its channel, NaN survives a
// ReLU, and results in bfloat16 are rounded once, to the nearest number and ties to even.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "common/bfloat16.h"
#include "tests/checked_call.h"

namespace {

using replk_tests::get;
using replk_tests::put;
using replk_tests::Random;

constexpr int64_t kChannels = 19, kMarked = 7;  // more channels than any instruction set has lanes

// Dense operands of one kernel and a call on them.
struct Call {
  replk_problem problem;
  bool is_channels_last = false;  // of the plan
  std::vector<char> input, grad, weight;

  Call(const replk_kernel& kernel, int64_t h, int64_t w, int64_t k, int32_t activation, int32_t channels_last)
      : problem{kernel.pass, kernel.dtype, activation, kernel.method, kernel.isa, 1, 1, kChannels, h, w, k, k,
                0,           channels_last},
        input(bytes(kChannels * h * w)),
        grad(bytes(kChannels * h * w)),
        weight(bytes(kChannels * k * k)) {
    replk_plan plan{};
    replk_dwconv2d_plan(&problem, &plan);
    is_channels_last = plan.channels_last != 0;
    Random random(1);
    for (std::vector<char>* operand : {&input, &grad, &weight}) {
      for (int64_t i = 0; i < size(*operand); ++i) put(operand->data(), i, problem.dtype, random.signed_unit());
    }
  }

  std::size_t bytes(int64_t elements) const {
    return static_cast<std::size_t>(elements * replk_tests::element_size(problem.dtype));
  }
  int64_t size(const std::vector<char>& operand) const {
    return static_cast<int64_t>(operand.size()) / replk_tests::element_size(problem.dtype);
  }

  // The results, or nothing if the kernel does not support the problem.
  std::vector<float> run() const {
    replk_plan plan;
    if (replk_dwconv2d_plan(&problem, &plan) != REPLK_OK) return {};
    const bool is_weight_gradient = problem.pass == REPLK_GRAD_WEIGHT;
    std::vector<char> output(is_weight_gradient ? weight.size() : input.size());
    std::vector<char> workspace(static_cast<std::size_t>(plan.workspace_bytes));
    const int64_t plane = problem.h * problem.w;
    replk_buffers buffers{};
    buffers.input = input.data();
    buffers.grad = is_weight_gradient ? grad.data() : nullptr;
    buffers.weight = is_weight_gradient ? nullptr : weight.data();
    buffers.output = output.data();
    buffers.workspace = workspace.data();
    buffers.workspace_bytes = plan.workspace_bytes;
    const int64_t column = plan.channels_last ? kChannels : 1;
    for (int64_t* stride : {buffers.input_stride, buffers.grad_stride, buffers.output_stride}) {
      stride[0] = kChannels * plane, stride[1] = plan.channels_last ? column : plane, stride[2] = problem.w * column;
    }
    if (replk_dwconv2d_run(&problem, &plan, &buffers) != REPLK_OK) return {};
    std::vector<float> found;
    const int64_t results = size(output) / kChannels;
    for (int64_t i = 0; i < size(output); ++i) {
      const int64_t at = is_weight_gradient ? i : place(i / results, i % results);
      found.push_back(get(output.data(), at, problem.dtype));
    }
    return found;
  }

  // Index of a pixel of a channel.
  int64_t place(int64_t channel, int64_t pixel) const {
    return is_channels_last ? pixel * kChannels + channel : channel * problem.h * problem.w + pixel;
  }
};

int ran = 0;

bool expect(bool holds, const replk_kernel& kernel, const char* what) {
  ++ran;
  if (!holds) std::fprintf(stderr, "FAILED %s: %s\n", kernel.name, what);
  return holds;
}

// Puts a value into the middle of one channel, from where it reaches all results of that channel.
bool check_value(const replk_kernel& kernel, float value, bool in_weight, int32_t activation, const Call& clean,
                 const std::vector<float>& expected) {
  Call call = clean;
  call.problem.activation = activation;
  std::vector<char>& operand = in_weight ? call.weight : call.input;
  const int64_t side = in_weight ? call.problem.kh : call.problem.h;
  const int64_t middle = side / 2 * side + side / 2;
  const int64_t at = in_weight ? kMarked * side * side + middle : call.place(kMarked, middle);
  put(operand.data(), at, call.problem.dtype, value);
  const std::vector<float> found = call.run();
  const int64_t results = static_cast<int64_t>(found.size()) / kChannels;
  bool is_kept = found.size() == expected.size(), is_inside = is_kept;
  for (int64_t i = 0; is_inside && i < static_cast<int64_t>(found.size()); ++i) {
    const float result = found[static_cast<std::size_t>(i)];
    if (i / results == kMarked) {
      is_kept = is_kept && (activation == REPLK_RELU ? std::isnan(result) : !std::isfinite(result));
    } else {
      const float unaffected = expected[static_cast<std::size_t>(i)];
      is_inside = is_inside && result == (activation == REPLK_RELU && unaffected < 0 ? 0.0f : unaffected);
    }
  }
  return expect(is_kept, kernel, "a value that is not finite became finite") &&
         expect(is_inside, kernel, "a value that is not finite affects another channel");
}

bool check_values(const replk_kernel& kernel, int32_t channels_last) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  bool passed = true;
  for (const int64_t side : {9, 14}) {
    // Every pixel reaches every result of a convolution, and the one in the middle all taps of a weight gradient.
    const int64_t kernel_side = kernel.pass == REPLK_GRAD_WEIGHT ? (side - 1) | 1 : 2 * side - 1;
    const Call clean(kernel, side, side, kernel_side, REPLK_NO_ACTIVATION, channels_last);
    const std::vector<float> expected = clean.run();
    if (expected.empty()) continue;
    for (const float value : {kNan, kInfinity, -kInfinity}) {
      for (const bool in_weight : {false, true}) {
        if (in_weight && kernel.pass == REPLK_GRAD_WEIGHT) continue;
        passed = check_value(kernel, value, in_weight, REPLK_NO_ACTIVATION, clean, expected) && passed;
      }
    }
    if (kernel.pass == REPLK_FORWARD) {
      passed = check_value(kernel, kNan, false, REPLK_RELU, clean, expected) && passed;
      passed = check_value(kernel, kNan, true, REPLK_RELU, clean, expected) && passed;
    }
  }
  return passed;
}

// Products of two numbers of 8 bits have at most 16, so that a 1x1 kernel computes them exactly before it rounds them.
bool check_rounding(const replk_kernel& kernel, int32_t channels_last) {
  const Call call(kernel, 9, 11, 1, REPLK_NO_ACTIVATION, channels_last);
  const std::vector<float> found = call.run();
  bool is_exact = true;
  const int64_t plane = call.problem.h * call.problem.w;
  for (int64_t i = 0; i < static_cast<int64_t>(found.size()); ++i) {
    const float product = get(call.input.data(), call.place(i / plane, i % plane), REPLK_BF16) *
                          get(call.weight.data(), i / plane, REPLK_BF16);
    const float rounded = replk::bfloat16_to_float(replk::float_to_bfloat16(product));
    is_exact = is_exact && found[static_cast<std::size_t>(i)] == rounded;
  }
  return expect(is_exact, kernel, "a result in bfloat16 is not the nearest number");
}

}  // namespace

int main() {
  bool passed = true;
  for (const replk_kernel& kernel : replk_tests::kernels()) {
    for (const int32_t channels_last : {0, 1}) {
      passed = check_values(kernel, channels_last) && passed;
      if (kernel.dtype == REPLK_BF16 && !kernel.uses_fft && kernel.pass != REPLK_GRAD_WEIGHT) {
        passed = check_rounding(kernel, channels_last) && passed;
      }
    }
  }
  std::printf("%d checks of special values, %s\n", ran, passed ? "all passed" : "some FAILED");
  return passed && ran > 0 ? 0 : 1;
}
