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

// What a tile reads, as float32 in scratch memory, with zeros where there is no plane.
//
// Passes go over the columns of a window with jumps of many rows. Straight from the plane, whose pitch is often a power
// of two, that ran at half the rate of a copy in the order of memory, which the hardware's prefetching can follow.
struct Window {
  const float* data;  // tile row 0
  int64_t pitch;      // floats from row to row
  int begin, end;     // rows that are not zero throughout; the others need not be there
};

// Where the results of a tile go.
struct Target {
  float* plane;  // the first result
  int64_t row_stride;
  int first_row;      // tile row of the first result; negative ones are counted from the end of the tile
  int rows, columns;  // results
  float bias;
  bool relu;
  bool streams;  // whole vectors are aligned and go past the caches
};

REPLK_INLINE int clamp_lane(int lane) { return lane < 0 ? 0 : lane > kLanes ? kLanes : lane; }

// The first pass over the two blocks of columns from tile column `column`.
template <int N1, int N2>
void columns_first_pass(const Window& window, int column, float* passed) {
  first_pass<N1, N2>(passed, [&](int row) REPLK_INLINE_LAMBDA -> Cx {
    if (row < window.begin || row >= window.end) return {zero(), zero()};
    return load_complex(window.data + (row * window.pitch + column));
  });
}

// Z [L + 1] complex vectors, Z[L] = Z[0].
template <int N1, int N2>
void columns_second_pass(const float* passed, float* z) {
  for (int k1 = 0; k1 < N1; ++k1) {
    Cx x[N2];
    second_pass<N1, N2>(passed, k1, x);
    each<N2>([&](auto k2) REPLK_INLINE_LAMBDA { store_complex(z + (k1 + N1 * k2) * kComplex, x[k2]); });
  }
  store_complex(z + N1 * N2 * kComplex, load_complex(z));
}

// The inverse, without 1 / L: the same on Z with real and imaginary parts swapped.
template <int N1, int N2>
void columns_inverse_first_pass(const float* z, float* passed) {
  first_pass<N1, N2>(passed, [&](int k) REPLK_INLINE_LAMBDA { return swapped(load_complex(z + k * kComplex)); });
}

// To the columns from `column` of the target; is_whole: all of them are wanted.
template <int N1, int N2, bool is_whole>
void columns_inverse_second_pass(const float* passed, int column, const Target& target) {
  const int a_count = clamp_lane(target.columns - column), b_count = clamp_lane(target.columns - column - kLanes);
  const Vec bias = broadcast(target.bias);
  for (int k1 = 0; k1 < N1; ++k1) {
    Cx x[N2];
    second_pass<N1, N2>(passed, k1, x);
    each<N2>([&](auto k2) REPLK_INLINE_LAMBDA {
      int row = k1 + N1 * k2 - target.first_row;
      row -= row >= N1 * N2 ? N1 * N2 : 0;
      if (row < 0 || row >= target.rows) return;
      float* p = target.plane + (row * target.row_stride + column);
      Vec a = x[k2].im + bias, b = x[k2].re + bias;
      if (target.relu) {
        a = relu(a);
        b = relu(b);
      }
      if (is_whole && target.streams) {
        stream(p, a);
        stream(p + kLanes, b);
      } else if (is_whole) {
        store(p, a);
        store(p + kLanes, b);
      } else {
        store_first(p, a, a_count);
        store_first(p + kLanes, b, b_count);
      }
    });
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_COLUMNS_H_
