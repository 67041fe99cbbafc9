// The transforms along the rows of a tile, between the two column stages: the lanes are neighboring rows.
//
// A group is `kLanes` rows k of the half spectrum 0 .. L1/2. Its columns A and B are separated from Z (columns.h),
// transposed, transformed, multiplied by the kernel's spectrum and transformed back while they are in the first-level
// cache, transposed again and recombined. The spectrum keeps the order in which the passes leave it, [group][k1][k2]
// complex vectors, so that nothing is reordered.
#ifndef REPLK_CPU_FFT_ROWS_H_
#define REPLK_CPU_FFT_ROWS_H_

#include "cpu/fft/transform.h"

namespace replk {
namespace REPLK_ISA {

// The geometry of the row stage.
struct RowGeometry {
  int length1;       // of the column transforms
  int pairs_in;      // pairs of blocks in Z
  int pairs_out;     // pairs of blocks in the result
  int first_column;  // tile column of the first result; negative values count from the end of the tile
  int columns;       // number of results
  int64_t pitch;     // floats from one pair of Z to the next
};

REPLK_INLINE int group_count(int length1) { return (length1 / 2 + kLanes) / kLanes; }

// Loads rows [k0, k0 + lanes) of Z, transposed, to work [column][complex] in natural order.
inline void load_group(const float* z, const RowGeometry& g, int k0, float* work) {
  for (int pair = 0; pair < g.pairs_in; ++pair) {
    const float* up = z + pair * g.pitch + int64_t{k0} * kComplex;
    const float* down = z + pair * g.pitch + int64_t{g.length1 - k0} * kComplex;
    float* a = work + pair * 2 * kLanes * kComplex;
    float* b = a + kLanes * kComplex;
    Vec m[kLanes];
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i) m[i] = load(up + i * kComplex) + load(down - i * kComplex);
    transpose(m);
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i) store(a + i * kComplex, m[i]);
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i) m[i] = load(up + i * kComplex + kLanes) - load(down - i * kComplex + kLanes);
    transpose(m);
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i) store(a + i * kComplex + kLanes, m[i]);
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i) m[i] = load(up + i * kComplex + kLanes) + load(down - i * kComplex + kLanes);
    transpose(m);
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i) store(b + i * kComplex, m[i]);
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i) m[i] = load(down - i * kComplex) - load(up + i * kComplex);
    transpose(m);
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i) store(b + i * kComplex + kLanes, m[i]);
  }
}

// Writes `rows` transposed vectors with a stride that may be negative.
REPLK_INLINE void store_rows(float* p, int64_t stride, Vec (&m)[kLanes], int rows) {
  transpose(m);
  if (rows >= kLanes) {
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i) store(p + i * stride, m[i]);
    return;
  }
  alignas(64) float lines[kLanes][kLanes];
  REPLK_UNROLL
  for (int i = 0; i < kLanes; ++i) store(lines[i], m[i]);
  for (int i = 0; i < rows; ++i) store(p + i * stride, load(lines[i]));
}

REPLK_INLINE Vec load_if(bool is_needed, const float* p) { return is_needed ? load(p) : zero(); }

// The inverse of load_group for the needed columns; the others of a pair become zero, so that they cannot contribute
// values that are not finite.
inline void store_group(float* z, const RowGeometry& g, int k0, const float* work) {
  const int rows = g.length1 / 2 + 1 - k0;
  for (int pair = 0; pair < g.pairs_out; ++pair) {
    float* up = z + pair * g.pitch + int64_t{k0} * kComplex;
    float* down = z + pair * g.pitch + int64_t{g.length1 - k0} * kComplex;
    const int column = pair * 2 * kLanes;
    const float* a = work + (g.first_column + column) * kComplex;
    const float* b = a + kLanes * kComplex;
    const int in_a = g.columns - column, in_b = in_a - kLanes;
    Vec m[kLanes];
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i)
      m[i] = load_if(i < in_a, a + i * kComplex) - load_if(i < in_b, b + i * kComplex + kLanes);
    store_rows(up, kComplex, m, rows);
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i)
      m[i] = load_if(i < in_a, a + i * kComplex + kLanes) + load_if(i < in_b, b + i * kComplex);
    store_rows(up + kLanes, kComplex, m, rows);
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i)
      m[i] = load_if(i < in_a, a + i * kComplex) + load_if(i < in_b, b + i * kComplex + kLanes);
    store_rows(down, -kComplex, m, rows);
    REPLK_UNROLL
    for (int i = 0; i < kLanes; ++i)
      m[i] = load_if(i < in_b, b + i * kComplex) - load_if(i < in_a, a + i * kComplex + kLanes);
    store_rows(down + kLanes, -kComplex, m, rows);
  }
}

// Copies the last columns of a row in front of the first one if results start at a negative column; `work` reserves
// space for them.
REPLK_INLINE void wrap_rows(float* work, int length2, const RowGeometry& g) {
  for (int column = g.first_column; column < 0; ++column) {
    store_complex(work + column * kComplex, load_complex(work + (column + length2) * kComplex));
  }
}

// Loads a group's rows and applies the first pass.
inline void begin_group(const Transform& t, const float* z, const RowGeometry& g, int group, float* work) {
  load_group(z, g, group * kLanes, work);
  t.first({work, kComplex, 0, g.pairs_in * 2 * kLanes}, work);
}

// Applies the last pass of the inverse to a group's rows and stores them to Z.
inline void end_group(const Transform& t, float* z, const RowGeometry& g, int group, float* work) {
  t.last(work);
  wrap_rows(work, t.length, g);
  store_group(z, g, group * kLanes, work);
}

// Number of calls of next.step() by rows_convolve.
inline int rows_convolve_steps(const Transform& t, int length1) { return group_count(length1) * t.n1.radix; }

// Replaces Z by that of the convolution with the kernel of `spectrum`, or of its adjoint.
inline void rows_convolve(const Transform& t, float* z, const RowGeometry& g, const float* spectrum, bool is_adjoint,
                          float* work, RowPrefetch& next) {
  const int groups = group_count(g.length1);
  for (int group = 0; group < groups; ++group, spectrum += t.length * kComplex) {
    begin_group(t, z, g, group, work);
    t.multiply(work, spectrum, is_adjoint, next);
    end_group(t, z, g, group, work);
  }
}

// The spectrum of Z, times `scale`.
inline void rows_spectrum(const Transform& t, const float* z, const RowGeometry& g, float scale, float* spectrum,
                          float* work) {
  const int groups = group_count(g.length1), floats = t.length * kComplex;
  for (int group = 0; group < groups; ++group, spectrum += floats) {
    begin_group(t, z, g, group, work);
    t.spectrum(work, scale, spectrum);
  }
}

// sum += spectrum(Z) conj(spectrum(Z of the gradient)).
inline void rows_correlate(const Transform& t, const float* z, const RowGeometry& g, const float* z_grad,
                           const RowGeometry& g_grad, float* sum, float* work, float* work_grad) {
  const int groups = group_count(g.length1), floats = t.length * kComplex;
  for (int group = 0; group < groups; ++group, sum += floats) {
    begin_group(t, z, g, group, work);
    begin_group(t, z_grad, g_grad, group, work_grad);
    t.correlate(work, work_grad, sum);
  }
}

// Z of a spectrum, times `scale`.
inline void rows_inverse(const Transform& t, const float* spectrum, float scale, const RowGeometry& g, float* z,
                         float* work) {
  const int groups = group_count(g.length1);
  const float (*twiddles)[2] = t.twiddles().by_k1;
  const Vec factor = broadcast(scale);
  for (int group = 0; group < groups; ++group) {
    for (int i = 0; i < t.length; ++i, spectrum += kComplex) {
      const Cx value = load_complex(spectrum);
      store_complex(work + i * kComplex, swapped({value.re * factor, value.im * factor}));
    }
    t.second(work, work, int64_t{kComplex} * t.n2.radix, kComplex);
    for (int i = t.n2.radix; i < t.length; ++i) {
      float* place = work + i * kComplex;
      store_complex(place, apply_twiddle(load_complex(place), twiddles[i]));
    }
    end_group(t, z, g, group, work);
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_ROWS_H_
