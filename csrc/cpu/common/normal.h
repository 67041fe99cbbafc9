// The normal distribution, and GELU's derivative.
//
// The lower tail of the normal distribution is exp(-z^2 / 2) G(s) / (z + k) with z = |x|, s = 1 - 2 k / (z + k). G is
// smooth on [-1, 1] and has no cancellation as a polynomial in s, which a polynomial in z or in 1 / (z + k) would have.
// Its coefficients, and those of 2^r, are least-squares fits whose weights were iterated until the largest relative
// error was smallest: 2e-8 and 2e-9, below the rounding errors of float32. The exponential is also the density, so that
// the derivative costs three operations more.
#ifndef REPLK_CPU_COMMON_NORMAL_H_
#define REPLK_CPU_COMMON_NORMAL_H_

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

// The derivative of x Phi(x). 1 / sqrt(2 pi) makes the exponential a density.
inline Vec gelu_derivative(Vec x, Normal at) {
  return fma(x * at.exponential, broadcast(0.3989422804f), at.distribution);
}

}  // namespace
}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_COMMON_NORMAL_H_
