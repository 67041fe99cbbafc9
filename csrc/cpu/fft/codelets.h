// Discrete Fourier transforms of a few points in registers:  y[k] = sum_n x[n] exp(-2 pi i n k / R), natural order.
//
// The inverse (without 1 / R) is the same transform with real and imaginary parts swapped before and after, which is
// free at a load or a store. Coprime factors are combined by the prime-factor algorithm (Good 1958, Thomas 1963),
// without twiddle factors; 8, 9 and 16 points by Cooley-Tukey with constant twiddle factors. Sums of products are
// fused.
#ifndef REPLK_CPU_FFT_CODELETS_H_
#define REPLK_CPU_FFT_CODELETS_H_

#include "cpu/fft/complex.h"

namespace replk {
namespace REPLK_ISA {

constexpr float kHalfSqrt2 = 0.70710678118654752440f;  // cos(pi / 4)
constexpr float kSin60 = 0.86602540378443864676f;
constexpr float kCos72 = 0.30901699437494742410f, kCos144 = -0.80901699437494742410f;
constexpr float kSin72 = 0.95105651629515357212f, kSin36 = 0.58778525229247312917f;
constexpr float kCos22 = 0.92387953251128675613f, kSin22 = 0.38268343236508977173f;  // of 22.5 degrees
constexpr float kCos40 = 0.76604444311897803520f, kSin40 = 0.64278760968653932632f;
constexpr float kCos80 = 0.17364817766693034885f, kSin80 = 0.98480775301220805937f;
constexpr float kCos20 = 0.93969262078590838405f, kSin20 = 0.34202014332566873304f;

template <int radix>
struct Dft;

template <>
struct Dft<2> {
  static REPLK_INLINE void run(Cx (&x)[2]) {
    const Cx a = x[0], b = x[1];
    x[0] = a + b;
    x[1] = a - b;
  }
};

template <>
struct Dft<3> {
  static REPLK_INLINE void run(Cx (&x)[3]) {
    const Vec sine = broadcast(kSin60);
    const Cx sum = x[1] + x[2], difference = x[1] - x[2];
    const Cx middle = fnma(broadcast(0.5f), sum, x[0]);
    x[0] = x[0] + sum;
    x[1] = fma_minus_i(sine, difference, middle);
    x[2] = fma_plus_i(sine, difference, middle);
  }
};

template <>
struct Dft<4> {
  static REPLK_INLINE void run(Cx (&x)[4]) {
    const Cx a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = x[1] - x[3];
    x[0] = a + c;
    x[1] = {b.re + d.im, b.im - d.re};
    x[2] = a - c;
    x[3] = {b.re - d.im, b.im + d.re};
  }
};

template <>
struct Dft<5> {
  static REPLK_INLINE void run(Cx (&x)[5]) {
    const Vec c1 = broadcast(kCos72), c2 = broadcast(kCos144), s1 = broadcast(kSin72);
    const Vec ratio = broadcast(kSin36 / kSin72);
    const Cx p = x[1] + x[4], q = x[2] + x[3], r = x[1] - x[4], s = x[2] - x[3];
    const Cx a = fma(c2, q, fma(c1, p, x[0])), b = fma(c1, q, fma(c2, p, x[0]));
    const Cx u = fma(ratio, s, r), v = fnma(ratio, r, s);  // the sines, divided by sin 72
    x[0] = x[0] + (p + q);
    x[1] = fma_minus_i(s1, u, a);
    x[4] = fma_plus_i(s1, u, a);
    x[2] = fma_plus_i(s1, v, b);
    x[3] = fma_minus_i(s1, v, b);
  }
};

template <>
struct Dft<8> {
  static REPLK_INLINE void run(Cx (&x)[8]) {
    const Vec half = broadcast(kHalfSqrt2);
    Cx even[4] = {x[0], x[2], x[4], x[6]}, odd[4] = {x[1], x[3], x[5], x[7]};
    Dft<4>::run(even);
    Dft<4>::run(odd);
    const Cx one = {odd[1].re + odd[1].im, odd[1].im - odd[1].re};    // times (1 - i)
    const Cx three = {odd[3].im - odd[3].re, odd[3].re + odd[3].im};  // times -(1 + i), with the sign of im changed
    x[0] = even[0] + odd[0];
    x[4] = even[0] - odd[0];
    x[1] = fma(half, one, even[1]);
    x[5] = fnma(half, one, even[1]);
    x[2] = {even[2].re + odd[2].im, even[2].im - odd[2].re};
    x[6] = {even[2].re - odd[2].im, even[2].im + odd[2].re};
    x[3] = {fma(half, three.re, even[3].re), fnma(half, three.im, even[3].im)};
    x[7] = {fnma(half, three.re, even[3].re), fma(half, three.im, even[3].im)};
  }
};

template <>
struct Dft<9> {
  static REPLK_INLINE void run(Cx (&x)[9]) {
    Cx y[3][3];
    REPLK_UNROLL
    for (int n = 0; n < 3; ++n) {
      Cx column[3] = {x[n], x[n + 3], x[n + 6]};
      Dft<3>::run(column);
      REPLK_UNROLL
      for (int k = 0; k < 3; ++k) y[k][n] = column[k];
    }
    y[1][1] = rotate(y[1][1], broadcast(kCos40), broadcast(-kSin40));
    y[1][2] = rotate(y[1][2], broadcast(kCos80), broadcast(-kSin80));
    y[2][1] = rotate(y[2][1], broadcast(kCos80), broadcast(-kSin80));
    y[2][2] = rotate(y[2][2], broadcast(-kCos20), broadcast(-kSin20));
    REPLK_UNROLL
    for (int k = 0; k < 3; ++k) {
      Dft<3>::run(y[k]);
      REPLK_UNROLL
      for (int m = 0; m < 3; ++m) x[k + 3 * m] = y[k][m];
    }
  }
};

template <>
struct Dft<16> {
  static REPLK_INLINE void run(Cx (&x)[16]) {
    Cx y[4][4];
    REPLK_UNROLL
    for (int n = 0; n < 4; ++n) {
      Cx column[4] = {x[n], x[n + 4], x[n + 8], x[n + 12]};
      Dft<4>::run(column);
      REPLK_UNROLL
      for (int k = 0; k < 4; ++k) y[k][n] = column[k];
    }
    const Vec half = broadcast(kHalfSqrt2), minus_half = broadcast(-kHalfSqrt2);
    const Vec c = broadcast(kCos22), s = broadcast(kSin22), minus_c = broadcast(-kCos22), minus_s = broadcast(-kSin22);
    y[1][1] = rotate(y[1][1], c, minus_s);
    y[1][2] = {half * (y[1][2].re + y[1][2].im), half * (y[1][2].im - y[1][2].re)};
    y[1][3] = rotate(y[1][3], s, minus_c);
    y[2][1] = {half * (y[2][1].re + y[2][1].im), half * (y[2][1].im - y[2][1].re)};
    y[2][2] = times_minus_i(y[2][2]);
    y[2][3] = {half * (y[2][3].im - y[2][3].re), minus_half * (y[2][3].re + y[2][3].im)};
    y[3][1] = rotate(y[3][1], s, minus_c);
    y[3][2] = {half * (y[3][2].im - y[3][2].re), minus_half * (y[3][2].re + y[3][2].im)};
    y[3][3] = rotate(y[3][3], minus_c, s);
    REPLK_UNROLL
    for (int k = 0; k < 4; ++k) {
      Dft<4>::run(y[k]);
      REPLK_UNROLL
      for (int m = 0; m < 4; ++m) x[k + 4 * m] = y[k][m];
    }
  }
};

// R = A B with coprime A and B: input n = (B a + A b) mod R, output k with k = ka mod A and k = kb mod B.
template <int A, int B>
struct CoprimeDft {
  static constexpr int R = A * B;

  // at[ka][kb]: the k in [0, R) that is ka modulo A and kb modulo B.
  struct Outputs {
    int at[A][B];

    constexpr Outputs() : at() {
      for (int k = 0; k < R; ++k) at[k % A][k % B] = k;
    }
  };
  static constexpr Outputs kOutputs = Outputs();

  static REPLK_INLINE void run(Cx (&x)[R]) {
    Cx y[B][A];
    REPLK_UNROLL
    for (int b = 0; b < B; ++b) {
      REPLK_UNROLL
      for (int a = 0; a < A; ++a) y[b][a] = x[(B * a + A * b) % R];
      Dft<A>::run(y[b]);
    }
    REPLK_UNROLL
    for (int ka = 0; ka < A; ++ka) {
      Cx row[B];
      REPLK_UNROLL
      for (int b = 0; b < B; ++b) row[b] = y[b][ka];
      Dft<B>::run(row);
      // With this map of the input, exp(-2 pi i (B a + A b) k / R) = exp(-2 pi i a k / A) exp(-2 pi i b k / B).
      REPLK_UNROLL
      for (int kb = 0; kb < B; ++kb) x[kOutputs.at[ka][kb]] = row[kb];
    }
  }
};

template <>
struct Dft<6> : CoprimeDft<2, 3> {};
template <>
struct Dft<10> : CoprimeDft<2, 5> {};
template <>
struct Dft<12> : CoprimeDft<4, 3> {};

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_CODELETS_H_
