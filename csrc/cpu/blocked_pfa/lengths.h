// The transforms of one length L = A B with coprime A and B (Good-Thomas prime-factor algorithm) in the channel-blocked
// layout: down the columns of a plane, from real numbers to half a spectrum and back, and along the rows of the half
// spectrum, including the product with the kernel's. There are no twiddle factors, and nothing is reordered: the order
// of the points is not specified, but it is the same for all spectra.
//
// A blocked plane is [row][column] vectors. Its half spectrum is [slot][column] complex vectors: (L + 1) / 2 slots, one
// for each pair of conjugate frequencies. Slot 0 holds the two real frequencies, 0 and (for even L) L / 2, as real and
// imaginary part.
#ifndef REPLK_CPU_BLOCKED_PFA_LENGTHS_H_
#define REPLK_CPU_BLOCKED_PFA_LENGTHS_H_

#include <cstdint>

#include "cpu/blocked_pfa/real_dft.h"

namespace replk {
namespace REPLK_ISA {

constexpr int kMostPoints = 40;

// Pointers to the points of a transform. Points outside the plane all point to the same zeros.
struct Points {
  const float* at[kMostPoints];
};

struct PfaLength {
  int length;
  int operations;  // of a complex transform: additions, multiplications and fused multiply-adds
  // From real numbers, each `offset` floats from its point, to slots `pitch` floats apart.
  void (*forward)(const Points&, int64_t offset, float* slots, int64_t pitch);
  // The inverse: the first `count` numbers, `stride` floats apart, plus bias, optionally followed by ReLU.
  void (*backward)(const float* slots, int64_t pitch, float* first, int64_t stride, int64_t count, Vec bias,
                   bool has_relu);
  // Multiplies the spectrum of a row of complex numbers by the kernel's, or (adjoint) by its conjugate, and transforms
  // it back: the first `count` numbers.
  void (*multiply)(const Points&, const float* spectrum, float* row, int64_t count, bool is_adjoint);
  // The spectrum of a row of complex numbers.
  void (*spectrum)(const Points&, float* spectrum);
};

// Counted in codelets.h.
constexpr int codelet_operations(int radix) {
  return radix == 3 ? 12 : radix == 4 ? 16 : radix == 5 ? 32 : radix == 6 ? 36 : 52;
}

template <int A, int B>
struct LengthFunctions {
  static constexpr int L = A * B, kPairs = (L - 1) / 2;
  static constexpr int point(int a, int b) { return (B * a + A * b) % L; }

  static void forward(const Points& points, int64_t offset, float* slots, int64_t pitch) {
    Vec x[L];
    REPLK_UNROLL
    for (int b = 0; b < B; ++b) {
      REPLK_UNROLL
      for (int n = b * A; n < (b + 1) * A; ++n) x[n] = load(points.at[n] + offset);
    }
    CoprimeRealDft<A, B>::forward(x);
    store_complex(slots, {x[0], L % 2 == 0 ? x[L - 1] : zero()});
    REPLK_UNROLL
    for (int i = 1; i <= kPairs; ++i) store_complex(slots + i * pitch, {x[2 * i - 1], x[2 * i]});
  }

  static void backward(const float* slots, int64_t pitch, float* first, int64_t stride, int64_t count, Vec bias,
                       bool has_relu) {
    Vec x[L];
    x[0] = load(slots);
    if constexpr (L % 2 == 0) x[L - 1] = load(slots + kLanes);
    REPLK_UNROLL
    for (int i = 1; i <= kPairs; ++i) {
      const Cx pair = load_complex(slots + i * pitch);
      x[2 * i - 1] = pair.re;
      x[2 * i] = pair.im;
    }
    CoprimeRealDft<A, B>::backward(x);
    REPLK_UNROLL
    for (int b = 0; b < B; ++b) {
      REPLK_UNROLL
      for (int n = b * A; n < (b + 1) * A; ++n) {
        if (n >= count) return;
        const Vec value = x[n] + bias;
        store(first + n * stride, has_relu ? relu(value) : value);
      }
    }
  }

  // The first half of a complex transform, over A, to [A][B].
  static void transform_first(const Points& points, float* work) {
    for (int b = 0; b < B; ++b) {
      Cx x[A];
      REPLK_UNROLL
      for (int a = 0; a < A; ++a) x[a] = load_complex(points.at[point(a, b)]);
      Dft<A>::run(x);
      REPLK_UNROLL
      for (int ka = 0; ka < A; ++ka) store_complex(work + (ka * B + b) * kComplex, x[ka]);
    }
  }

  static REPLK_INLINE void transform_second(const float* work, Cx (&x)[B]) {
    REPLK_UNROLL
    for (int b = 0; b < B; ++b) x[b] = load_complex(work + b * kComplex);
    Dft<B>::run(x);
  }

  static void multiply(const Points& points, const float* spectrum, float* row, int64_t count, bool is_adjoint) {
    alignas(64) float work[L * kComplex];
    transform_first(points, work);
    for (int ka = 0; ka < A; ++ka) {
      float* place = work + ka * B * kComplex;
      const float* factors = spectrum + ka * B * kComplex;
      Cx x[B];
      transform_second(place, x);
      // The inverse: the same transform on numbers whose real and imaginary parts are swapped.
      if (is_adjoint) {
        REPLK_UNROLL
        for (int kb = 0; kb < B; ++kb)
          x[kb] = swapped(multiply_conjugate(x[kb], load_complex(factors + kb * kComplex)));
      } else {
        REPLK_UNROLL
        for (int kb = 0; kb < B; ++kb)
          x[kb] = swapped(replk::REPLK_ISA::multiply(x[kb], load_complex(factors + kb * kComplex)));
      }
      Dft<B>::run(x);
      REPLK_UNROLL
      for (int b = 0; b < B; ++b) store_complex(place + b * kComplex, x[b]);
    }
    for (int b = 0; b < B; ++b) {
      Cx x[A];
      REPLK_UNROLL
      for (int ka = 0; ka < A; ++ka) x[ka] = load_complex(work + (ka * B + b) * kComplex);
      Dft<A>::run(x);
      REPLK_UNROLL
      for (int a = 0; a < A; ++a) {
        const int n = point(a, b);
        if (n < count) store_complex(row + n * kComplex, swapped(x[a]));
      }
    }
  }

  static void spectrum(const Points& points, float* spectrum) {
    alignas(64) float work[L * kComplex];
    transform_first(points, work);
    for (int ka = 0; ka < A; ++ka) {
      Cx x[B];
      transform_second(work + ka * B * kComplex, x);
      REPLK_UNROLL
      for (int kb = 0; kb < B; ++kb) store_complex(spectrum + (ka * B + kb) * kComplex, x[kb]);
    }
  }

  static constexpr PfaLength kLength = {
      L, A * codelet_operations(B) + B * codelet_operations(A), forward, backward, multiply, spectrum};
};

constexpr PfaLength kPfaLengths[] = {
    LengthFunctions<3, 5>::kLength, LengthFunctions<4, 5>::kLength, LengthFunctions<8, 3>::kLength,
    LengthFunctions<6, 5>::kLength, LengthFunctions<8, 5>::kLength,
};

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_BLOCKED_PFA_LENGTHS_H_
