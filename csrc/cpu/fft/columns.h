// The transforms along the columns of a tile: the lanes are neighboring columns, two blocks of columns at a time.
//
// The columns of a plane are real. Those of block a, [j, j + lanes), are the real parts and those of block b,
// [j + lanes, j + 2 lanes), the imaginary parts of one complex transform: Z = A + i B. Since A and B have Hermitian
// symmetry, 2 A[k] = Z[k] + conj Z[L-k] and 2 i B[k] = Z[k] - conj Z[L-k]; rows.h separates and recombines them. Only
// columns of one plane share a transform, so channels and images do not affect each other's rounding errors.
#ifndef REPLK_CPU_FFT_COLUMNS_H_
#define REPLK_CPU_FFT_COLUMNS_H_

#include <cstdint>

#include "cpu/fft/transform.h"

namespace replk {
namespace REPLK_ISA {

// The input of a tile as float32 in scratch memory, `pitch` floats from row to row.
//
// The passes access the columns of a window with strides of many rows. Directly on the plane, whose pitch is often a
// power of two, this ran at half the speed of first copying in memory order, which hardware prefetchers can follow.
using Window = Lines;

// Transforms the two blocks of columns from tile column `column` to Z, [L + 1] complex vectors with Z[L] = Z[0].
inline void transform_columns(const Transform& t, const Window& window, int column, float* passed, float* z) {
  t.first({window.data + column, window.pitch, window.begin, window.end}, passed);
  t.second(passed, z, kComplex, int64_t{kComplex} * t.n1.radix);
  store_complex(z + t.length * kComplex, load_complex(z));
}

// The inverse, without 1 / L, to the columns of the target from `column`.
inline void inverse_columns(const Transform& t, const float* z, int column, float* passed, const Target& target) {
  t.first_inverse(z, passed);
  t.result(passed, column, target);
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_COLUMNS_H_
