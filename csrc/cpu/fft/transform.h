// Transforms of one length: passes and twiddle factors.
#ifndef REPLK_CPU_FFT_TRANSFORM_H_
#define REPLK_CPU_FFT_TRANSFORM_H_

#include <cmath>
#include <cstdint>

#include "cpu/fft/passes.h"

namespace replk {
namespace REPLK_ISA {

constexpr int kLongest = 192;

// cos and sin of -2 pi n2 k1 / L, computed in double and rounded, in the order of each pass.
struct Twiddles {
  float by_n2[kLongest][2];  // [n2][k1]
  float by_k1[kLongest][2];  // [k1][n2]

  Twiddles(int length1, int length2) {
    constexpr double kTwoPi = 6.283185307179586476925286766559;
    for (int n2 = 0; n2 < length2; ++n2) {
      for (int k1 = 0; k1 < length1; ++k1) {
        const double angle = -kTwoPi * (n2 * k1) / (length1 * length2);
        float* place = by_n2[n2 * length1 + k1];
        float* transposed = by_k1[k1 * length2 + n2];
        place[0] = transposed[0] = static_cast<float>(std::cos(angle));
        place[1] = transposed[1] = static_cast<float>(std::sin(angle));
      }
    }
  }
};

// The passes of factor N1.
struct FirstPasses {
  int radix;
  void (*first)(const Lines&, int length2, const float (*twiddles)[2], float* passed);
  void (*first_inverse)(const float* z, int length2, const float (*twiddles)[2], float* passed);
  void (*last)(float* work, int length2);
};

// The passes of factor N2.
struct SecondPasses {
  int radix;
  void (*second)(const float* passed, int length1, float* to, int64_t step_k1, int64_t step_k2);
  void (*spectrum)(const float* passed, int length1, float scale, float* spectrum);
  void (*correlate)(const float* passed, const float* other, int length1, float* sum);
  void (*result)(const float* passed, int length1, int column, const Target& target);
  void (*multiply)(float* work, int length1, const float (*twiddles)[2], const float* spectrum, bool is_adjoint,
                   RowPrefetch& next);
};

template <int N1>
constexpr FirstPasses kFirst = {N1, first_pass<N1>, first_pass_inverse<N1>, last_pass<N1>};
template <int N2>
constexpr SecondPasses kSecond = {
    N2, second_pass<N2>, spectrum_pass<N2>, correlate_pass<N2>, result_pass<N2>, multiply_pass<N2>};

// One length.
struct Transform {
  int length;
  float cost;  // of one complex transform, in vector operations: arithmetic, loads and stores
  FirstPasses n1;
  SecondPasses n2;
  const Twiddles& (*twiddles)();

  void first(const Lines& lines, float* passed) const { n1.first(lines, n2.radix, twiddles().by_n2, passed); }
  void first_inverse(const float* z, float* passed) const { n1.first_inverse(z, n2.radix, twiddles().by_n2, passed); }
  void last(float* work) const { n1.last(work, n2.radix); }
  void second(const float* passed, float* to, int64_t step_k1, int64_t step_k2) const {
    n2.second(passed, n1.radix, to, step_k1, step_k2);
  }
  void spectrum(const float* passed, float scale, float* to) const { n2.spectrum(passed, n1.radix, scale, to); }
  void correlate(const float* passed, const float* other, float* sum) const {
    n2.correlate(passed, other, n1.radix, sum);
  }
  void result(const float* passed, int column, const Target& target) const {
    n2.result(passed, n1.radix, column, target);
  }
  void multiply(float* work, const float* spectrum, bool is_adjoint, RowPrefetch& next) const {
    n2.multiply(work, n1.radix, twiddles().by_k1, spectrum, is_adjoint, next);
  }
};

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_TRANSFORM_H_
