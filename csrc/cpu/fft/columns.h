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

// A window of a plane, seen with zeros around it.
template <class T>
struct Source {
  const T* plane;                    // element (0, 0) of the plane
  int64_t row_stride;                // in elements
  int64_t row_offset, column_offset;  // plane coordinates of tile coordinate (0, 0); may be negative
  int row_begin, row_end;            // tile rows that exist; the others are zero
  int column_begin, column_end;      // tile columns that exist
};

// Where the results of a tile go.
template <class T>
struct Target {
  T* plane;         // element of tile row `first_row` and the first column of the first block
  int64_t row_stride;
  int first_row, rows;  // tile rows that are kept
  int columns;          // how many columns are kept
  float bias;
  bool relu;
};

REPLK_INLINE int clamp_lane(int lane) { return lane < 0 ? 0 : lane > kLanes ? kLanes : lane; }

// Z [L + 1] complex vectors, Z[L] = Z[0], of the columns from tile column `column`.
template <int N1, int N2, bool is_inside, class T>
void columns_forward(const Source<T>& source, int column, float* z, float* scratch) {
  constexpr int L = N1 * N2;
  const int a_begin = clamp_lane(source.column_begin - column), a_end = clamp_lane(source.column_end - column);
  const int b_begin = clamp_lane(source.column_begin - column - kLanes);
  const int b_end = clamp_lane(source.column_end - column - kLanes);
  const int64_t first = source.row_offset * source.row_stride + source.column_offset + column;
  transform<N1, N2>(
      scratch,
      [&](int row) REPLK_INLINE_LAMBDA -> Cx {
        if (row < source.row_begin || row >= source.row_end) return {zero(), zero()};
        const T* p = source.plane + (first + row * source.row_stride);
        if (is_inside) return {load(p), load(p + kLanes)};
        return {load_between(p, a_begin, a_end), load_between(p + kLanes, b_begin, b_end)};
      },
      [&](int k, Cx value) REPLK_INLINE_LAMBDA { store_complex(z + k * kComplex, value); });
  store_complex(z + L * kComplex, load_complex(z));
}

template <bool is_whole, class T>
REPLK_INLINE void store_block(T* p, Vec value, int count, const Vec bias, bool relu_after) {
  value = value + bias;
  if (relu_after) value = relu(value);
  if (is_whole) {
    store(p, value);
  } else {
    store_first(p, value, count);
  }
}

// The inverse, without 1 / L, of Z [L + 1] to the columns from `column` of the target.
template <int N1, int N2, bool is_whole, class T>
void columns_inverse(const float* z, int column, const Target<T>& target, float* scratch) {
  const int a_count = clamp_lane(target.columns - column), b_count = clamp_lane(target.columns - column - kLanes);
  const Vec bias = broadcast(target.bias);
  transform<N1, N2>(
      scratch, [&](int k) REPLK_INLINE_LAMBDA { return swapped(load_complex(z + k * kComplex)); },
      [&](int row, Cx value) REPLK_INLINE_LAMBDA {
        const int kept = row - target.first_row;
        if (kept < 0 || kept >= target.rows) return;
        T* p = target.plane + (kept * target.row_stride + column);
        store_block<is_whole>(p, value.im, a_count, bias, target.relu);
        store_block<is_whole>(p + kLanes, value.re, b_count, bias, target.relu);
      });
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_COLUMNS_H_
