// The transforms along the columns of a tile: neighbouring columns in the lanes, two blocks of columns at once.
//
// The columns of a plane are real. Those of block a, [j, j + lanes), ride as real parts and those of block b,
// [j + lanes, j + 2 lanes), as imaginary parts of one complex transform: Z = A + i B, and since A and B have Hermitian
// symmetry, 2 A[k] = Z[k] + conj Z[L-k] and 2 i B[k] = Z[k] - conj Z[L-k]. rows.h takes them apart and together again.
// Only columns of one plane share a transform, so no channel or image can disturb another.
#ifndef REPLK_CPU_FFT_COLUMNS_H_
#define REPLK_CPU_FFT_COLUMNS_H_

#include <cstdint>

#include "cpu/fft/transform.h"

namespace replk {
namespace REPLK_ISA {

// What a tile reads, as float32 in scratch memory: `pitch` floats from row to row.
//
// Passes go over the columns of a window with jumps of many rows. Straight from the plane, whose pitch is often a power
// of two, that ran at half the rate of a copy in the order of memory, which the hardware's prefetching can follow.
using Window = Lines;

// The two blocks of columns from tile column `column` to Z [L + 1] complex vectors, Z[L] = Z[0].
inline void transform_columns(const Transform& t, const Window& window, int column, float* passed, float* z) {
  t.first({window.data + column, window.pitch, window.begin, window.end}, passed);
  t.second(passed, z, kComplex, int64_t{kComplex} * t.n1.radix);
  store_complex(z + t.length * kComplex, load_complex(z));
}

// The inverse, without 1 / L, to the columns from `column` of the target: the same on Z with real and imaginary parts
// swapped.
inline void restore_columns(const Transform& t, const float* z, int column, float* passed, const Target& target) {
  t.first_back(z, passed);
  t.result(passed, column, target);
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_COLUMNS_H_
