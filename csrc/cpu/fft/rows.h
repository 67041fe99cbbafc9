// The transforms along the rows of a tile, between the two column stages: neighbouring rows in the lanes.
//
// A group is `kLanes` rows k of the half spectrum 0 .. L1/2. Its columns A and B are taken out of Z (columns.h), turned
// so that the rows stand in the lanes, transformed, multiplied by the kernel's spectrum and transformed back while they
// are in the first-level cache, turned again and put back. The spectrum keeps the order in which the first pass leaves
// it: [group][k1][k2] complex vectors, so that nothing is reordered.
#ifndef REPLK_CPU_FFT_ROWS_H_
#define REPLK_CPU_FFT_ROWS_H_

#include "cpu/fft/transform.h"

namespace replk {
namespace REPLK_ISA {

// What the row stage needs to know of a tile. All sizes in rows, columns or floats.
struct RowGeometry {
  int length1;       // of the column transforms
  int pairs_in;      // pairs of blocks in Z
  int pairs_out;     // pairs of blocks to make
  int first_column;  // tile column of the first result; negative ones are counted from the end of the tile
  int columns;       // results from there on
  int64_t pitch;     // floats from one pair of Z to the next
};

// A window of memory that will be needed soon, fetched bit by bit while something else is computed.
struct Fetch {
  const char* first;
  int64_t row_bytes;  // from one row to the next
  int rows;
  int line_bytes;  // of each row that are wanted

  // The share of step `step` of `steps`.
  REPLK_INLINE void advance(int step, int steps) const {
    for (int row = rows * step / steps; row < rows * (step + 1) / steps; ++row) {
      const char* p = first + row * row_bytes;
      for (int offset = 0; offset < line_bytes; offset += 64) prefetch(p + offset);
    }
  }
};

REPLK_INLINE int group_count(int length1) { return (length1 / 2 + kLanes) / kLanes; }

// Rows [k0, k0 + lanes) of Z as columns in natural order at work [column][complex].
inline void load_group(const float* z, const RowGeometry& g, int k0, float* work) {
  for (int pair = 0; pair < g.pairs_in; ++pair) {
    const float* up = z + pair * g.pitch + int64_t{k0} * kComplex;
    const float* down = z + pair * g.pitch + int64_t{g.length1 - k0} * kComplex;
    float* a = work + pair * 2 * kLanes * kComplex;
    float* b = a + kLanes * kComplex;
    Vec m[kLanes];
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { m[i] = load(up + i * kComplex) + load(down - i * kComplex); });
    transpose(m);
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { store(a + i * kComplex, m[i]); });
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA {
      m[i] = load(up + i * kComplex + kLanes) - load(down - i * kComplex + kLanes);
    });
    transpose(m);
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { store(a + i * kComplex + kLanes, m[i]); });
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA {
      m[i] = load(up + i * kComplex + kLanes) + load(down - i * kComplex + kLanes);
    });
    transpose(m);
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { store(b + i * kComplex, m[i]); });
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { m[i] = load(down - i * kComplex) - load(up + i * kComplex); });
    transpose(m);
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { store(b + i * kComplex + kLanes, m[i]); });
  }
}

// Writes `rows` transposed vectors with a stride that may be negative.
REPLK_INLINE void store_rows(float* p, int64_t stride, Vec (&m)[kLanes], int rows) {
  transpose(m);
  if (rows >= kLanes) {
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { store(p + i * stride, m[i]); });
    return;
  }
  alignas(64) float lines[kLanes][kLanes];
  each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { store(lines[i], m[i]); });
  for (int i = 0; i < rows; ++i) store(p + i * stride, load(lines[i]));
}

// The reverse of load_group, for the columns that are wanted; the others of a pair become zero, so that nothing that is
// not finite can come in by them.
inline void store_group(float* z, const RowGeometry& g, int k0, const float* work) {
  const int rows = g.length1 / 2 + 1 - k0;
  for (int pair = 0; pair < g.pairs_out; ++pair) {
    float* up = z + pair * g.pitch + int64_t{k0} * kComplex;
    float* down = z + pair * g.pitch + int64_t{g.length1 - k0} * kComplex;
    const int column = pair * 2 * kLanes;
    const float* a = work + (g.first_column + column) * kComplex;
    const float* b = a + kLanes * kComplex;
    const int in_a = g.columns - column, in_b = in_a - kLanes;
    const auto a_at = [&](int i, int part)
                          REPLK_INLINE_LAMBDA { return i < in_a ? load(a + i * kComplex + part) : zero(); };
    const auto b_at = [&](int i, int part)
                          REPLK_INLINE_LAMBDA { return i < in_b ? load(b + i * kComplex + part) : zero(); };
    Vec m[kLanes];
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { m[i] = a_at(i, 0) - b_at(i, kLanes); });
    store_rows(up, kComplex, m, rows);
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { m[i] = a_at(i, kLanes) + b_at(i, 0); });
    store_rows(up + kLanes, kComplex, m, rows);
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { m[i] = a_at(i, 0) + b_at(i, kLanes); });
    store_rows(down, -kComplex, m, rows);
    each<kLanes>([&](auto i) REPLK_INLINE_LAMBDA { m[i] = b_at(i, 0) - a_at(i, kLanes); });
    store_rows(down + kLanes, -kComplex, m, rows);
  }
}

// Pass 1 along the rows, in place; columns from `columns` on are taken as zero.
template <int N1, int N2>
void rows_first_pass(float* work, int columns) {
  first_pass<N1, N2>(work, [&](int n) REPLK_INLINE_LAMBDA {
    return n < columns ? load_complex(work + n * kComplex) : Cx{zero(), zero()};
  });
}

// From swapped values of the spectrum at one k1 back to what stands between the passes, in place.
template <int N1, int N2>
REPLK_INLINE void store_second(float* work, int k1, Cx (&x)[N2]) {
  const Twiddles<N1, N2>& twiddles = Twiddles<N1, N2>::table();
  Dft<N2>::run(x);
  float* p = work + k1 * N2 * kComplex;
  store_complex(p, x[0]);
  each<N2 - 1>([&](auto i) REPLK_INLINE_LAMBDA {
    constexpr int n2 = decltype(i)::value + 1;
    store_complex(p + n2 * kComplex, twist(x[n2], twiddles.value[n2][k1]));
  });
}

// The last pass of the inverse, in place, natural order.
template <int N1, int N2>
void rows_last_pass(float* work) {
  for (int n2 = 0; n2 < N2; ++n2) {
    Cx x[N1];
    each<N1>([&](auto k1) REPLK_INLINE_LAMBDA { x[k1] = load_complex(work + (k1 * N2 + n2) * kComplex); });
    Dft<N1>::run(x);
    each<N1>([&](auto n1) REPLK_INLINE_LAMBDA { store_complex(work + (n2 + N2 * n1) * kComplex, swapped(x[n1])); });
  }
}

// Puts the last columns of a row before its first one, where results start at a negative column. `work` has room there.
REPLK_INLINE void wrap_rows(float* work, int length2, const RowGeometry& g) {
  for (int column = g.first_column; column < 0; ++column) {
    store_complex(work + column * kComplex, load_complex(work + (column + length2) * kComplex));
  }
}

// Multiplies the spectrum of a group, which is never stored, by the kernel's (is_adjoint: by its conjugate).
template <int N1, int N2, bool is_adjoint>
void rows_multiply(float* work, const float* spectrum, const Fetch& next, int step, int steps) {
  for (int k1 = 0; k1 < N1; ++k1) {
    next.advance(step * N1 + k1, steps * N1);
    Cx x[N2];
    second_pass<N1, N2>(work, k1, x);
    each<N2>([&](auto k2) REPLK_INLINE_LAMBDA {
      const Cx factor = load_complex(spectrum + (k1 * N2 + k2) * kComplex);
      x[k2] = swapped(is_adjoint ? multiply_conjugate(x[k2], factor) : multiply(x[k2], factor));
    });
    store_second<N1, N2>(work, k1, x);
  }
}

// Z becomes the Z of the convolution with the kernel of `spectrum`, or of its adjoint.
template <int N1, int N2, bool is_adjoint>
void rows_convolve(float* z, const RowGeometry& g, const float* spectrum, float* work, const Fetch& next) {
  const int groups = group_count(g.length1);
  for (int group = 0; group < groups; ++group) {
    load_group(z, g, group * kLanes, work);
    rows_first_pass<N1, N2>(work, g.pairs_in * 2 * kLanes);
    rows_multiply<N1, N2, is_adjoint>(work, spectrum, next, group, groups);
    spectrum += N1 * N2 * kComplex;
    rows_last_pass<N1, N2>(work);
    wrap_rows(work, N1 * N2, g);
    store_group(z, g, group * kLanes, work);
  }
}

// The spectrum of Z, times `scale`.
template <int N1, int N2>
void rows_spectrum(const float* z, const RowGeometry& g, float scale, float* spectrum, float* work) {
  const int groups = group_count(g.length1);
  const Vec factor = broadcast(scale);
  for (int group = 0; group < groups; ++group) {
    load_group(z, g, group * kLanes, work);
    rows_first_pass<N1, N2>(work, g.pairs_in * 2 * kLanes);
    for (int k1 = 0; k1 < N1; ++k1) {
      Cx x[N2];
      second_pass<N1, N2>(work, k1, x);
      each<N2>([&](auto k2) REPLK_INLINE_LAMBDA {
        store_complex(spectrum + (k1 * N2 + k2) * kComplex, {x[k2].re * factor, x[k2].im * factor});
      });
    }
    spectrum += N1 * N2 * kComplex;
  }
}

// sum += spectrum(Z) conj(spectrum(Z of the gradient)).
template <int N1, int N2>
void rows_correlate(const float* z, const RowGeometry& g, const float* z_grad, const RowGeometry& g_grad, float* sum,
                    float* work, float* work_grad) {
  const int groups = group_count(g.length1);
  for (int group = 0; group < groups; ++group) {
    load_group(z, g, group * kLanes, work);
    rows_first_pass<N1, N2>(work, g.pairs_in * 2 * kLanes);
    load_group(z_grad, g_grad, group * kLanes, work_grad);
    rows_first_pass<N1, N2>(work_grad, g_grad.pairs_in * 2 * kLanes);
    for (int k1 = 0; k1 < N1; ++k1) {
      Cx x[N2];
      second_pass<N1, N2>(work_grad, k1, x);
      each<N2>([&](auto k2) REPLK_INLINE_LAMBDA { store_complex(work_grad + (k1 * N2 + k2) * kComplex, x[k2]); });
      second_pass<N1, N2>(work, k1, x);
      each<N2>([&](auto k2) REPLK_INLINE_LAMBDA {
        float* place = sum + (k1 * N2 + k2) * kComplex;
        const Cx other = load_complex(work_grad + (k1 * N2 + k2) * kComplex);
        store_complex(place, load_complex(place) + multiply_conjugate(x[k2], other));
      });
    }
    sum += N1 * N2 * kComplex;
  }
}

// Z of a spectrum.
template <int N1, int N2>
void rows_inverse(const float* spectrum, const RowGeometry& g, float* z, float* work) {
  const int groups = group_count(g.length1);
  for (int group = 0; group < groups; ++group) {
    for (int k1 = 0; k1 < N1; ++k1) {
      Cx x[N2];
      each<N2>([&](auto k2)
                   REPLK_INLINE_LAMBDA { x[k2] = swapped(load_complex(spectrum + (k1 * N2 + k2) * kComplex)); });
      store_second<N1, N2>(work, k1, x);
    }
    spectrum += N1 * N2 * kComplex;
    rows_last_pass<N1, N2>(work);
    wrap_rows(work, N1 * N2, g);
    store_group(z, g, group * kLanes, work);
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_ROWS_H_
