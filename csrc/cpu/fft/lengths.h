// The lengths that transforms come in, and the functions of each.
#ifndef REPLK_CPU_FFT_LENGTHS_H_
#define REPLK_CPU_FFT_LENGTHS_H_

#include "cpu/fft/columns.h"
#include "cpu/fft/rows.h"

namespace replk {
namespace REPLK_ISA {

struct ColumnFunctions {
  void (*first)(const Window&, int column, float* passed);
  void (*second)(const float* passed, float* z);
  void (*inverse_first)(const float* z, float* passed);
  void (*inverse_second)(const float* passed, int column, const Target&);        // some columns are not wanted
  void (*inverse_second_whole)(const float* passed, int column, const Target&);  // all of them are
};

struct RowFunctions {
  void (*convolve)(float* z, const RowGeometry&, const float* spectrum, float* work, const Fetch&);
  void (*convolve_adjoint)(float* z, const RowGeometry&, const float* spectrum, float* work, const Fetch&);
  void (*spectrum)(const float* z, const RowGeometry&, float scale, float* spectrum, float* work);
  void (*correlate)(const float* z, const RowGeometry&, const float* z_grad, const RowGeometry&, float* sum,
                    float* work, float* work_grad);
  void (*inverse)(const float* spectrum, const RowGeometry&, float* z, float* work);
};

struct Length {
  int length;
  float cost;  // of one complex transform, in vector operations: arithmetic, loads and stores
  ColumnFunctions columns;
  RowFunctions rows;
};

// Additions, multiplications and fused ones of one codelet, counted from codelets.h.
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
constexpr Length length_of() {
  return {N1 * N2,
          N1 * codelet_cost(N2) + N2 * codelet_cost(N1) + 4 * (N1 - 1) * N2 + 8 * N1 * N2,
          {columns_first_pass<N1, N2>, columns_second_pass<N1, N2>, columns_inverse_first_pass<N1, N2>,
           columns_inverse_second_pass<N1, N2, false>, columns_inverse_second_pass<N1, N2, true>},
          {rows_convolve<N1, N2, false>, rows_convolve<N1, N2, true>, rows_spectrum<N1, N2>, rows_correlate<N1, N2>,
           rows_inverse<N1, N2>}};
}

#if defined(REPLK_FEW_LENGTHS)
// For sanitizers, which make each length slow to compile: every codelet once.
constexpr Length kLengths[] = {length_of<4, 6>(), length_of<5, 8>(), length_of<9, 10>(), length_of<12, 16>()};
#else
// What fits the planes and kernels of real networks with little to spare; half a length plus one comes to just under a
// multiple of the lanes for 24, 30, 60, 90 and 120, which wastes least in the row stage.
constexpr Length kLengths[] = {
    length_of<4, 6>(),   length_of<5, 6>(),   length_of<5, 8>(),   length_of<6, 8>(),
    length_of<6, 10>(),  length_of<8, 10>(),  length_of<9, 10>(),  length_of<8, 12>(),
    length_of<10, 12>(), length_of<12, 12>(), length_of<10, 16>(), length_of<12, 16>(),
};
#endif
constexpr int kLengthCount = sizeof kLengths / sizeof kLengths[0];

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_LENGTHS_H_
