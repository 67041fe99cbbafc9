// One transform of length L = N1 N2 in two passes of codelets (Cooley and Tukey), many at once in the lanes.
//
//   n = n2 + N2 n1,  k = k1 + N1 k2:   first pass: N1 points over n1 for each n2, times exp(-2 pi i n2 k1 / L)
//                                      second pass: N2 points over n2 for each k1
#ifndef REPLK_CPU_FFT_TRANSFORM_H_
#define REPLK_CPU_FFT_TRANSFORM_H_

#include <cmath>

#include "cpu/fft/codelets.h"

namespace replk {
namespace REPLK_ISA {

// cos and sin of -2 pi n2 k1 / L at [n2][k1][2], rounded from double.
template <int N1, int N2>
struct Twiddles {
  float value[N2][N1][2];

  Twiddles() {
    constexpr double kTwoPi = 6.283185307179586476925286766559;
    for (int n2 = 0; n2 < N2; ++n2) {
      for (int k1 = 0; k1 < N1; ++k1) {
        const double angle = -kTwoPi * (n2 * k1) / (N1 * N2);
        value[n2][k1][0] = static_cast<float>(std::cos(angle));
        value[n2][k1][1] = static_cast<float>(std::sin(angle));
      }
    }
  }

  static const Twiddles& table() {
    static const Twiddles twiddles;
    return twiddles;
  }
};

REPLK_INLINE Cx twist(Cx value, const float (&twiddle)[2]) {
  return rotate(value, broadcast(twiddle[0]), broadcast(twiddle[1]));
}

// load(n) -> passed [L], in the order [k1][n2]; may be in place.
template <int N1, int N2, class Load>
REPLK_INLINE void first_pass(float* passed, Load load) {
  const Twiddles<N1, N2>& twiddles = Twiddles<N1, N2>::table();
  for (int n2 = 0; n2 < N2; ++n2) {
    Cx x[N1];
    each<N1>([&](auto n1) REPLK_INLINE_LAMBDA { x[n1] = load(n2 + N2 * n1); });
    Dft<N1>::run(x);
    float* p = passed + n2 * kComplex;
    store_complex(p, x[0]);
    each<N1 - 1>([&](auto i) REPLK_INLINE_LAMBDA {
      constexpr int k1 = decltype(i)::value + 1;
      store_complex(p + k1 * N2 * kComplex, twist(x[k1], twiddles.value[n2][k1]));
    });
  }
}

// The second pass for one k1: x[k2] is what stands at k1 + N1 k2.
template <int N1, int N2>
REPLK_INLINE void second_pass(const float* passed, int k1, Cx (&x)[N2]) {
  const float* p = passed + k1 * N2 * kComplex;
  each<N2>([&](auto n2) REPLK_INLINE_LAMBDA { x[n2] = load_complex(p + n2 * kComplex); });
  Dft<N2>::run(x);
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_TRANSFORM_H_
