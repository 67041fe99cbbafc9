// The reference for tests: plain loops with double accumulators. Any shape and stride; inputs and outputs must not
// overlap.
#include <cstdint>

#include "common/bfloat16.h"
#include "common/task.h"

namespace replk {
namespace {

double load(const void* base, int64_t index, int32_t dtype) {
  return dtype == REPLK_F32 ? static_cast<const float*>(base)[index]
                            : bfloat16_to_float(static_cast<const uint16_t*>(base)[index]);
}

void store(void* base, int64_t index, int32_t dtype, double value) {
  if (dtype == REPLK_F32) {
    static_cast<float*>(base)[index] = static_cast<float>(value);
  } else {
    static_cast<uint16_t*>(base)[index] = float_to_bfloat16(static_cast<float>(value));
  }
}

bool plan(const replk_problem&, replk_plan&) { return true; }

int64_t scratch_bytes(const replk_problem&, const replk_plan&) { return 0; }

int64_t items(const replk_problem& p, const replk_plan&) { return p.pass == REPLK_GRAD_WEIGHT ? p.c : p.n * p.c; }

void convolve_plane(const Task& task, int64_t n, int64_t c) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  const int64_t x = n * b.input_stride[0] + c * b.input_stride[1];
  const int64_t y = n * b.output_stride[0] + c * b.output_stride[1];
  for (int64_t i = 0; i < p.h; ++i) {
    for (int64_t j = 0; j < p.w; ++j) {
      double sum = b.bias ? load(b.bias, c, p.dtype) : 0.0;
      for (int64_t u = 0; u < p.kh; ++u) {
        const int64_t row = i + u - p.kh / 2;
        if (row < 0 || row >= p.h) continue;
        for (int64_t v = 0; v < p.kw; ++v) {
          const int64_t column = j + v - p.kw / 2;
          if (column < 0 || column >= p.w) continue;
          const int64_t tap = p.pass == REPLK_FORWARD ? u * p.kw + v : (p.kh - 1 - u) * p.kw + (p.kw - 1 - v);
          sum += load(b.input, x + row * b.input_stride[2] + column, p.dtype) *
                 load(b.weight, c * p.kh * p.kw + tap, p.dtype);
        }
      }
      if (p.activation == REPLK_RELU && sum < 0) sum = 0;  // keeps a NaN
      store(b.output, y + i * b.output_stride[2] + j, p.dtype, sum);
    }
  }
}

void correlate_channel(const Task& task, int64_t c) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  for (int64_t u = 0; u < p.kh; ++u) {
    for (int64_t v = 0; v < p.kw; ++v) {
      double sum = 0;
      for (int64_t n = 0; n < p.n; ++n) {
        const int64_t x = n * b.input_stride[0] + c * b.input_stride[1];
        const int64_t g = n * b.grad_stride[0] + c * b.grad_stride[1];
        for (int64_t i = 0; i < p.h; ++i) {
          const int64_t row = i + u - p.kh / 2;
          if (row < 0 || row >= p.h) continue;
          for (int64_t j = 0; j < p.w; ++j) {
            const int64_t column = j + v - p.kw / 2;
            if (column < 0 || column >= p.w) continue;
            sum += load(b.grad, g + i * b.grad_stride[2] + j, p.dtype) *
                   load(b.input, x + row * b.input_stride[2] + column, p.dtype);
          }
        }
      }
      store(b.output, (c * p.kh + u) * p.kw + v, p.dtype, sum);
    }
  }
}

void run(const Task& task, int64_t begin, int64_t end, void*) {
  for (int64_t item = begin; item < end; ++item) {
    if (task.problem.pass == REPLK_GRAD_WEIGHT) {
      correlate_channel(task, item);
    } else {
      convolve_plane(task, item / task.problem.c, item % task.problem.c);
    }
  }
}

}  // namespace

const Method reference_methods[3] = {{plan, scratch_bytes, items, run, nullptr},
                                     {plan, scratch_bytes, items, run, nullptr},
                                     {plan, scratch_bytes, items, run, nullptr}};

}  // namespace replk
