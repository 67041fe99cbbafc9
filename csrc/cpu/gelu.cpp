// GELU and its gradient with sums over rows.
//
// The lower tail of the normal distribution is exp(-z^2 / 2) G(s) / (z + k) with z = |x|, s = 1 - 2 k / (z + k). G is
// smooth on [-1, 1] and has no cancellation as a polynomial in s, which a polynomial in z or in 1 / (z + k) would have.
// Its coefficients, and those of 2^r, are least-squares fits whose weights were iterated until the largest relative
// error was smallest: 2e-8 and 2e-9, below the rounding errors of float32. The exponential is also the density, so that
// the derivative costs three operations more.
#include "common/gelu.h"

#include <cstdint>

#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {
namespace {

constexpr float kPole = 3.75f;
constexpr float kTail[] = {0.7502940893173218f,    -0.5881882905960083f,   0.3529396057128906f,
                           -0.15152083337306976f,  0.0374925471842289f,    0.0012001123977825046f,
                           -0.004169120453298092f, 0.0005094454390928149f, 0.00044337051804177463f};
constexpr float kPower[] = {1.0f,
                            0.6931471824645996f,
                            0.24022646248340607f,
                            0.05550328642129898f,
                            0.009618489071726799f,
                            0.0013399930903688073f,
                            0.0001534580806037411f};

template <int kCount>
inline Vec polynomial(const float (&coefficients)[kCount], Vec a) {
  Vec value = broadcast(coefficients[kCount - 1]);
  for (int i = kCount - 2; i >= 0; --i) value = fma(value, a, broadcast(coefficients[i]));
  return value;
}

// exp(-a), a >= 0: zero from about 88 on, where the result would be subnormal; keeps NaN.
inline Vec exp_of_negative(Vec a) {
  // Adding this number rounds to an integer in its lowest bits, plus the bias of the exponent.
  const Vec shift = broadcast(12582912.0f + 127.0f), log2e = broadcast(1.44269504f);
  a = at_most(a, 88.0f);  // the integer is at least -127, for which from_low_bits gives zero
  const Vec shifted = fnma(a, log2e, shift);
  const Vec fraction = fnma(a, log2e, shift - shifted);
  return polynomial(kPower, fraction) * from_low_bits(shifted);
}

struct Normal {
  Vec distribution;  // Phi(x)
  Vec exponential;   // exp(-x^2 / 2)
};

inline Normal normal(Vec x) {
  const Vec one = broadcast(1.0f), z = by_sign(x, zero() - x, x);
  const Vec exponential = exp_of_negative(broadcast(0.5f) * x * x);
  const Vec reciprocal = one / (z + broadcast(kPole));
  const Vec tail = exponential * (polynomial(kTail, fnma(broadcast(2 * kPole), reciprocal, one)) * reciprocal);
  return {by_sign(x, tail, one - tail), exponential};
}

inline Vec load_up_to(const float* p, int64_t count) {
  return count >= kLanes ? load(p) : load_first(p, static_cast<int>(count));
}
inline void store_up_to(float* p, Vec a, int64_t count) {
  if (count >= kLanes) {
    store(p, a);
  } else {
    store_first(p, a, static_cast<int>(count));
  }
}

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
      // 1 / sqrt(2 pi) makes the exponential a density.
      const Vec derivative = fma(x * at.exponential, broadcast(0.3989422804f), at.distribution);
      store_up_to(output + j, derivative * fma(grad_scale, given, output_scale * (x * at.distribution)), count);
    }
  }
}

}  // namespace

extern const GeluKernels gelu_kernels = {forward, products, grad_input};

}  // namespace REPLK_ISA
}  // namespace replk
