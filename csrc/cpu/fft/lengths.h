// The lengths that transforms come in, and the functions of each.
#ifndef REPLK_CPU_FFT_LENGTHS_H_
#define REPLK_CPU_FFT_LENGTHS_H_

#include "cpu/fft/columns.h"
#include "cpu/fft/rows.h"

namespace replk {
namespace REPLK_ISA {

template <class T>
struct ColumnFunctions {
  void (*forward)(const Source<T>&, int column, float* z, float* scratch);         // some of the window is missing
  void (*forward_inside)(const Source<T>&, int column, float* z, float* scratch);  // all of its columns exist
  void (*inverse)(const float* z, int column, const Target<T>&, float* scratch);
  void (*inverse_whole)(const float* z, int column, const Target<T>&, float* scratch);  // all columns are kept
};

struct RowFunctions {
  void (*convolve)(float* z, const RowGeometry&, const float* spectrum, float* work);
  void (*convolve_adjoint)(float* z, const RowGeometry&, const float* spectrum, float* work);
  void (*spectrum)(const float* z, const RowGeometry&, float scale, float* spectrum, float* work);
  void (*correlate)(const float* z, const RowGeometry&, const float* z_grad, const RowGeometry&, float* sum, float* work,
                    float* work_grad);
  void (*inverse)(const float* spectrum, const RowGeometry&, float* z, float* work);
};

struct Length {
  int length;
  float cost;  // of one complex transform, in vector operations: arithmetic, loads and stores
  ColumnFunctions<float> columns_f32;
  ColumnFunctions<uint16_t> columns_bf16;
  RowFunctions rows;

  const ColumnFunctions<float>& columns(const float*) const { return columns_f32; }
  const ColumnFunctions<uint16_t>& columns(const uint16_t*) const { return columns_bf16; }
};

// Additions, multiplications and fused ones of one codelet, counted from codelets.h.
constexpr float codelet_cost(int radix) {
  return radix == 4 ? 16 : radix == 5 ? 32 : radix == 6 ? 36 : radix == 8 ? 52 : radix == 9 ? 88 : radix == 10 ? 84
         : radix == 12 ? 96 : radix == 15 ? 156 : 160;
}

template <int N1, int N2, class T>
constexpr ColumnFunctions<T> columns_of() {
  return {columns_forward<N1, N2, false, T>, columns_forward<N1, N2, true, T>, columns_inverse<N1, N2, false, T>,
          columns_inverse<N1, N2, true, T>};
}

template <int N1, int N2>
constexpr Length length_of() {
  return {N1 * N2,
          N1 * codelet_cost(N2) + N2 * codelet_cost(N1) + 4 * (N1 - 1) * N2 + 8 * N1 * N2,
          columns_of<N1, N2, float>(),
          columns_of<N1, N2, uint16_t>(),
          {rows_convolve<N1, N2, false>, rows_convolve<N1, N2, true>, rows_spectrum<N1, N2>, rows_correlate<N1, N2>,
           rows_inverse<N1, N2>}};
}

constexpr Length kLengths[] = {
    length_of<4, 6>(),   length_of<5, 6>(),   length_of<5, 8>(),   length_of<6, 8>(),   length_of<6, 10>(),
    length_of<8, 8>(),   length_of<8, 9>(),   length_of<8, 10>(),  length_of<9, 10>(),  length_of<8, 12>(),
    length_of<10, 12>(), length_of<12, 12>(), length_of<10, 16>(), length_of<12, 16>(), length_of<16, 16>(),
};
constexpr int kLengthCount = sizeof kLengths / sizeof kLengths[0];

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_LENGTHS_H_
