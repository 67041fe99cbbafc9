// Discrete Fourier transforms of a few real numbers in registers, and their inverses:
//
//   forward    X[k] = sum_n x[n] exp(-2 pi i n k / R)    from R real numbers, one X[k] of each conjugate pair
//   backward   x[n] = sum_k X[k] exp(+2 pi i n k / R)    the inverse, without 1 / R
//
// Half the work of complex transforms of the same length. The spectrum is R vectors: the real numbers X[0] first and,
// for even R, X[R / 2] last; in between the real and imaginary parts of one number of each conjugate pair. The order of
// the pairs is not specified; it is the same for all spectra of one length.
#ifndef REPLK_CPU_BLOCKED_PFA_REAL_DFT_H_
#define REPLK_CPU_BLOCKED_PFA_REAL_DFT_H_

#include "cpu/common/unroll.h"
#include "cpu/fft/codelets.h"

namespace replk {
namespace REPLK_ISA {

template <int radix>
struct RealDft;

template <>
struct RealDft<2> {
  static REPLK_INLINE void forward(Vec (&x)[2]) {
    const Vec a = x[0], b = x[1];
    x[0] = a + b;
    x[1] = a - b;
  }
  static REPLK_INLINE void backward(Vec (&x)[2]) { forward(x); }
};

template <>
struct RealDft<3> {
  static REPLK_INLINE void forward(Vec (&x)[3]) {
    const Vec sum = x[1] + x[2], difference = x[2] - x[1];
    x[1] = fnma(broadcast(0.5f), sum, x[0]);
    x[2] = broadcast(kSin60) * difference;
    x[0] = x[0] + sum;
  }
  static REPLK_INLINE void backward(Vec (&x)[3]) {
    const Vec sine = broadcast(2 * kSin60), middle = x[0] - x[1], im = x[2];
    x[0] = fma(broadcast(2.0f), x[1], x[0]);
    x[1] = fnma(sine, im, middle);
    x[2] = fma(sine, im, middle);
  }
};

template <>
struct RealDft<4> {
  static REPLK_INLINE void forward(Vec (&x)[4]) {
    const Vec a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = x[3] - x[1];
    x[0] = a + c;
    x[1] = b;
    x[2] = d;
    x[3] = a - c;
  }
  static REPLK_INLINE void backward(Vec (&x)[4]) {
    const Vec two = broadcast(2.0f), a = x[0] + x[3], b = x[0] - x[3], re = x[1], im = x[2];
    x[0] = fma(two, re, a);
    x[1] = fnma(two, im, b);
    x[2] = fnma(two, re, a);
    x[3] = fma(two, im, b);
  }
};

template <>
struct RealDft<5> {
  static REPLK_INLINE void forward(Vec (&x)[5]) {
    const Vec c1 = broadcast(kCos72), c2 = broadcast(kCos144), s1 = broadcast(kSin72), s2 = broadcast(kSin36);
    const Vec p = x[1] + x[4], q = x[2] + x[3], r = x[4] - x[1], s = x[3] - x[2];
    x[1] = fma(c2, q, fma(c1, p, x[0]));
    x[2] = fma(s2, s, s1 * r);
    x[3] = fma(c1, q, fma(c2, p, x[0]));
    x[4] = fnma(s1, s, s2 * r);
    x[0] = x[0] + (p + q);
  }
  static REPLK_INLINE void backward(Vec (&x)[5]) {
    const Vec c1 = broadcast(2 * kCos72), c2 = broadcast(2 * kCos144);
    const Vec s1 = broadcast(2 * kSin72), s2 = broadcast(2 * kSin36);
    const Vec a = fma(c2, x[3], fma(c1, x[1], x[0])), b = fma(c1, x[3], fma(c2, x[1], x[0]));
    const Vec u = fma(s2, x[4], s1 * x[2]), v = fnma(s1, x[4], s2 * x[2]);
    x[0] = fma(broadcast(2.0f), x[1] + x[3], x[0]);
    x[1] = a - u;
    x[4] = a + u;
    x[2] = b - v;
    x[3] = b + v;
  }
};

template <>
struct RealDft<8> {
  static REPLK_INLINE void forward(Vec (&x)[8]) {
    const Vec half = broadcast(kHalfSqrt2);
    Vec even[4] = {x[0], x[2], x[4], x[6]}, odd[4] = {x[1], x[3], x[5], x[7]};
    RealDft<4>::forward(even);
    RealDft<4>::forward(odd);
    const Vec re = odd[1] + odd[2], im = odd[2] - odd[1];  // times (1 - i)
    x[0] = even[0] + odd[0];
    x[1] = fma(half, re, even[1]);
    x[2] = fma(half, im, even[2]);
    x[3] = even[3];
    x[4] = zero() - odd[3];
    x[5] = fnma(half, re, even[1]);
    x[6] = fma(half, im, zero() - even[2]);
    x[7] = even[0] - odd[0];
  }
  static REPLK_INLINE void backward(Vec (&x)[8]) {
    const Vec half = broadcast(kHalfSqrt2), two = broadcast(2.0f);
    const Vec re = x[1] - x[5], im = x[2] + x[6];
    Vec even[4] = {x[0] + x[7], x[1] + x[5], x[2] - x[6], two * x[3]};
    Vec odd[4] = {x[0] - x[7], half * (re - im), half * (re + im), broadcast(-2.0f) * x[4]};
    RealDft<4>::backward(even);
    RealDft<4>::backward(odd);
    REPLK_UNROLL
    for (int n = 0; n < 4; ++n) {
      x[2 * n] = even[n];
      x[2 * n + 1] = odd[n];
    }
  }
};

// R = A B with coprime A and B, B odd (prime-factor algorithm): input n = (B a + A b) mod R. The spectrum consists of
// the real transform over B of X[0] over A, the complex transforms of each pair over A and, for even A, the real
// transform of X[A / 2], whose own real number is last.
template <int A, int B>
struct CoprimeRealDft {
  static constexpr int R = A * B;
  static constexpr int kPairs = (A - 1) / 2;

  // Index of pair `kb` of a real transform over B, and of its real number.
  static constexpr int pair_of(bool is_last, int kb) { return is_last ? R - B + 2 * kb : 1 + 2 * kb; }
  static constexpr int real_of(bool is_last) { return is_last ? R - 1 : 0; }

  static REPLK_INLINE void forward(Vec (&x)[R]) {
    Vec y[B][A];
    REPLK_UNROLL
    for (int b = 0; b < B; ++b) {
      REPLK_UNROLL
      for (int a = 0; a < A; ++a) y[b][a] = x[(B * a + A * b) % R];
      RealDft<A>::forward(y[b]);
    }
    REPLK_UNROLL
    for (int is_last = 0; is_last < 2 - A % 2; ++is_last) {
      Vec row[B];
      REPLK_UNROLL
      for (int b = 0; b < B; ++b) row[b] = y[b][is_last ? A - 1 : 0];
      RealDft<B>::forward(row);
      x[real_of(is_last)] = row[0];
      REPLK_UNROLL
      for (int i = 0; i < B - 1; ++i) x[pair_of(is_last, 0) + i] = row[i + 1];
    }
    REPLK_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      Cx row[B];
      REPLK_UNROLL
      for (int b = 0; b < B; ++b) {
        row[b] = {y[b][1 + 2 * pair], y[b][2 + 2 * pair]};
      }
      Dft<B>::run(row);
      REPLK_UNROLL
      for (int kb = 0; kb < B; ++kb) {
        x[(1 + 2 * pair) * B + 2 * kb] = row[kb].re;
        x[(1 + 2 * pair) * B + 2 * kb + 1] = row[kb].im;
      }
    }
  }

  static REPLK_INLINE void backward(Vec (&x)[R]) {
    Vec y[B][A];
    REPLK_UNROLL
    for (int is_last = 0; is_last < 2 - A % 2; ++is_last) {
      Vec row[B];
      row[0] = x[real_of(is_last)];
      REPLK_UNROLL
      for (int i = 0; i < B - 1; ++i) row[i + 1] = x[pair_of(is_last, 0) + i];
      RealDft<B>::backward(row);
      REPLK_UNROLL
      for (int b = 0; b < B; ++b) y[b][is_last ? A - 1 : 0] = row[b];
    }
    REPLK_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      Cx row[B];
      REPLK_UNROLL
      for (int kb = 0; kb < B; ++kb) {
        row[kb] = {x[(1 + 2 * pair) * B + 2 * kb + 1], x[(1 + 2 * pair) * B + 2 * kb]};  // swapped
      }
      Dft<B>::run(row);
      REPLK_UNROLL
      for (int b = 0; b < B; ++b) {
        y[b][1 + 2 * pair] = row[b].im;
        y[b][2 + 2 * pair] = row[b].re;
      }
    }
    REPLK_UNROLL
    for (int b = 0; b < B; ++b) {
      RealDft<A>::backward(y[b]);
      REPLK_UNROLL
      for (int a = 0; a < A; ++a) x[(B * a + A * b) % R] = y[b][a];
    }
  }
};

template <>
struct RealDft<6> : CoprimeRealDft<2, 3> {};

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_BLOCKED_PFA_REAL_DFT_H_
