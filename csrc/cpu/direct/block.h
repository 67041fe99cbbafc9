// A block of R x C vector accumulators that slides over R + taps - 1 input positions:
//
//   acc[i][c] += sum_{s < steps} sum_{r} input(s, r, c) factor(s, r - i)        0 <= r - i < taps,  first <= r < last
//
// Every input vector is loaded once and used for up to R accumulators; the factors of one position are contiguous, so
// they share a pointer. At the ends of the range only some accumulators are updated: positions 0 to R-2 ramp up and
// positions taps to taps+R-2 ramp down, each with straight-line code and without superfluous products. Needs
// taps >= R - 1, first <= taps and last >= R - 1.
//
// `Operands` defines input and factor: forward and grad input broadcast weights (rows.h), grad weight multiplies by
// vectors of the output's gradient (grad_weight.h). No alignment is required. Critical instructions: fused multiply-add
// with R C accumulators in registers, broadcast loads.
#ifndef REPLK_CPU_DIRECT_BLOCK_H_
#define REPLK_CPU_DIRECT_BLOCK_H_

#include "cpu/common/unroll.h"
#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {

struct BlockInput {
  const float* x;      // position 0 of step 0
  int64_t x_position;  // elements from a position to the next
  int64_t x_step;      // elements from a step to the next
  int64_t x_fold;      // elements between the two halves of a folded vector; see rows.h
  const float* w;      // factor 0 of step 0
  int64_t w_tap;       // elements from a factor to the next, if not 1
  int64_t w_step;
  int64_t steps, taps, first, last;
};

template <class Operands, int kBegin, int kEnd, int R, int C>
static REPLK_INLINE void multiply_position(Vec (&acc)[R][C], const BlockInput& in, const float* x, const float* w) {
  w = opaque(w);
  Vec input[C];
  REPLK_UNROLL
  for (int c = 0; c < C; ++c) input[c] = in_register(Operands::input(x, c, in));
  REPLK_UNROLL
  for (int i = kBegin; i < kEnd; ++i) {
    const Vec operand = Operands::factor(w, i, in);
    const Vec factor = C > 1 ? in_register(operand) : operand;
    REPLK_UNROLL
    for (int c = 0; c < C; ++c) acc[i][c] = fma(input[c], factor, acc[i][c]);
  }
}

template <class Operands, int kPosition, int R, int C>
static REPLK_INLINE void ramp_up(Vec (&acc)[R][C], const BlockInput& in, const float* x, const float* w) {
  if constexpr (kPosition < R - 1) {
    if (kPosition >= in.first) {
      multiply_position<Operands, 0, kPosition + 1>(acc, in, x + kPosition * in.x_position,
                                                    Operands::advance(w, kPosition, in));
    }
    ramp_up<Operands, kPosition + 1>(acc, in, x, w);
  }
}

// x and w point to position `taps`.
template <class Operands, int kPosition, int R, int C>
static REPLK_INLINE void ramp_down(Vec (&acc)[R][C], const BlockInput& in, const float* x, const float* w) {
  if constexpr (kPosition < R - 1) {
    if (in.taps + kPosition < in.last) {
      multiply_position<Operands, kPosition + 1, R>(acc, in, x + kPosition * in.x_position,
                                                    Operands::advance(w, kPosition, in));
      ramp_down<Operands, kPosition + 1>(acc, in, x, w);
    }
  }
}

template <class Operands, int R, int C>
static REPLK_INLINE void multiply_block(Vec (&acc)[R][C], const BlockInput& in) {
  const int64_t full_begin = in.first > R - 1 ? in.first : R - 1;
  const int64_t full_end = in.last < in.taps ? in.last : in.taps;
  const float* x = in.x;
  const float* w = in.w;
  for (int64_t step = 0; step < in.steps; ++step, x += in.x_step, w += in.w_step) {
    ramp_up<Operands, 0>(acc, in, x, w);
    const float* x_now = x + full_begin * in.x_position;
    const float* w_now = Operands::advance(w, full_begin, in);
    for (int64_t r = full_begin; r < full_end; ++r) {
      multiply_position<Operands, 0, R>(acc, in, x_now, w_now);
      x_now += in.x_position;
      w_now = Operands::advance(w_now, 1, in);
    }
    ramp_down<Operands, 0>(acc, in, x + in.taps * in.x_position, Operands::advance(w, in.taps, in));
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_DIRECT_BLOCK_H_
