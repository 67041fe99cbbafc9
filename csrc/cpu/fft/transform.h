// One transform of length L = N1 N2 in two passes of codelets (Cooley and Tukey), many at once in the lanes.
//
//   n = n2 + N2 n1,  k = k1 + N1 k2:   pass 1: N1 points over n1 for each n2, times exp(-2 pi i n2 k1 / L)
//                                      pass 2: N2 points over n2 for each k1
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

template <int N1, int N2>
REPLK_INLINE void twist(Cx (&x)[N1], const Twiddles<N1, N2>& twiddles, int n2) {
  each<N1 - 1>([&](auto i) REPLK_INLINE_LAMBDA {
    constexpr int k1 = decltype(i)::value + 1;
    x[k1] = rotate(x[k1], broadcast(twiddles.value[n2][k1][0]), broadcast(twiddles.value[n2][k1][1]));
  });
}

// Calls load(n) for each input and store(k, X) for each output; `scratch` [L] complex vectors.
template <int N1, int N2, class Load, class Store>
REPLK_INLINE void transform(float* scratch, Load load, Store store) {
  const Twiddles<N1, N2>& twiddles = Twiddles<N1, N2>::table();
  for (int n2 = 0; n2 < N2; ++n2) {
    Cx x[N1];
    each<N1>([&](auto n1) REPLK_INLINE_LAMBDA { x[n1] = load(n2 + N2 * n1); });
    Dft<N1>::run(x);
    twist(x, twiddles, n2);
    each<N1>([&](auto k1) REPLK_INLINE_LAMBDA { store_complex(scratch + (k1 * N2 + n2) * kComplex, x[k1]); });
  }
  for (int k1 = 0; k1 < N1; ++k1) {
    Cx x[N2];
    each<N2>([&](auto n2) REPLK_INLINE_LAMBDA { x[n2] = load_complex(scratch + (k1 * N2 + n2) * kComplex); });
    Dft<N2>::run(x);
    each<N2>([&](auto k2) REPLK_INLINE_LAMBDA { store(k1 + N1 * k2, x[k2]); });
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_TRANSFORM_H_
