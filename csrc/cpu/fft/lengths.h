// The lengths of the transforms, and the functions of each.
#ifndef REPLK_CPU_FFT_LENGTHS_H_
#define REPLK_CPU_FFT_LENGTHS_H_

#include "cpu/fft/columns.h"
#include "cpu/fft/rows.h"

namespace replk {
namespace REPLK_ISA {

// Additions, multiplications and fused multiply-adds of one codelet, counted in codelets.h.
constexpr float codelet_cost(int radix) {
  return radix == 4    ? 16
         : radix == 5  ? 32
         : radix == 6  ? 36
         : radix == 8  ? 52
         : radix == 9  ? 88
         : radix == 10 ? 84
         : radix == 12 ? 96
                       : 160;
}

template <int N1, int N2>
const Twiddles& twiddles_of() {
  static const Twiddles twiddles(N1, N2);
  return twiddles;
}

template <int N1, int N2>
constexpr Transform length_of() {
  static_assert(N1 * N2 <= kLongest, "increase kLongest");
  return {N1 * N2, N1 * codelet_cost(N2) + N2 * codelet_cost(N1) + 4 * (N1 - 1) * N2 + 8 * N1 * N2, kFirst<N1>,
          kSecond<N2>, twiddles_of<N1, N2>};
}

// Chosen to fit the planes and kernels of common networks closely. For 24, 30, 60, 90 and 120, half the length plus one
// is just below a multiple of the lanes, which wastes least in the row stage.
constexpr Transform kLengths[] = {
    length_of<4, 6>(),   length_of<5, 6>(),   length_of<5, 8>(),   length_of<6, 8>(),
    length_of<6, 10>(),  length_of<8, 10>(),  length_of<9, 10>(),  length_of<8, 12>(),
    length_of<10, 12>(), length_of<12, 12>(), length_of<10, 16>(), length_of<12, 16>(),
};
constexpr int kLengthCount = sizeof kLengths / sizeof kLengths[0];

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_LENGTHS_H_
