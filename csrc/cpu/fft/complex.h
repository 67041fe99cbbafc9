// Vectors of complex numbers.
#ifndef REPLK_CPU_FFT_COMPLEX_H_
#define REPLK_CPU_FFT_COMPLEX_H_

#include "cpu/common/unroll.h"
#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {

struct Cx {
  Vec re, im;
};

REPLK_INLINE Cx operator+(Cx a, Cx b) { return {a.re + b.re, a.im + b.im}; }
REPLK_INLINE Cx operator-(Cx a, Cx b) { return {a.re - b.re, a.im - b.im}; }
REPLK_INLINE Cx swapped(Cx a) { return {a.im, a.re}; }
REPLK_INLINE Cx times_minus_i(Cx a) { return {a.im, zero() - a.re}; }
REPLK_INLINE Cx fma(Vec s, Cx a, Cx b) { return {fma(s, a.re, b.re), fma(s, a.im, b.im)}; }     // b + s a
REPLK_INLINE Cx fnma(Vec s, Cx a, Cx b) { return {fnma(s, a.re, b.re), fnma(s, a.im, b.im)}; }  // b - s a
// b - i s a and b + i s a, s real.
REPLK_INLINE Cx fma_minus_i(Vec s, Cx a, Cx b) { return {fma(s, a.im, b.re), fnma(s, a.re, b.im)}; }
REPLK_INLINE Cx fma_plus_i(Vec s, Cx a, Cx b) { return {fnma(s, a.im, b.re), fma(s, a.re, b.im)}; }
// a (c + i s)
REPLK_INLINE Cx rotate(Cx a, Vec c, Vec s) { return {fnma(a.im, s, a.re * c), fma(a.im, c, a.re * s)}; }
REPLK_INLINE Cx multiply(Cx a, Cx b) { return rotate(a, b.re, b.im); }
// a times the conjugate of b
REPLK_INLINE Cx multiply_conjugate(Cx a, Cx b) { return {fma(a.im, b.im, a.re * b.re), fnma(a.re, b.im, a.im * b.re)}; }

REPLK_INLINE Cx load_complex(const float* p) { return {load(p), load(p + kLanes)}; }
REPLK_INLINE void store_complex(float* p, Cx a) {
  store(p, a.re);
  store(p + kLanes, a.im);
}
constexpr int kComplex = 2 * kLanes;  // floats of one complex vector in memory: real parts, then imaginary parts

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_COMPLEX_H_
