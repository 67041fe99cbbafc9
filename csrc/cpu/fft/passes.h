// The passes of Cooley-Tukey transforms of length L = N1 N2, one transform per lane.
//
//   n = n2 + N2 n1,  k = k1 + N1 k2:   first pass: N1 points over n1 for each n2, times exp(-2 pi i n2 k1 / L)
//                                      second pass: N2 points over n2 for each k1
//
// The intermediate result is [k1][n2]. A pass is compiled for each of its radices and receives the other factor at run
// time: a dozen lengths then share the code of a few radices, which takes long to compile.
#ifndef REPLK_CPU_FFT_PASSES_H_
#define REPLK_CPU_FFT_PASSES_H_

#include <cstdint>

#include "cpu/common/prefetch.h"
#include "cpu/fft/codelets.h"

namespace replk {
namespace REPLK_ISA {

REPLK_INLINE Cx apply_twiddle(Cx value, const float (&twiddle)[2]) {
  return rotate(value, broadcast(twiddle[0]), broadcast(twiddle[1]));
}

// Complex vectors in memory; those before `begin` and from `end` on are zero and are not read.
struct Lines {
  const float* data;  // of line 0
  int64_t pitch;      // floats from line to line
  int begin, end;
};

// The destination of a tile's results.
struct Target {
  float* plane;  // the first result
  int64_t row_stride;
  int first_row;      // tile row of the first result; negative values count from the end of the tile
  int rows, columns;  // number of results
  float bias;
  bool relu;
  bool streams;  // use non-temporal stores for whole vectors, which are aligned
};

// From lines to passed; may be in place.
template <int N1>
void first_pass(const Lines& lines, int length2, const float (*twiddles)[2], float* passed) {
  const int64_t step = lines.pitch * length2, step_passed = int64_t{kComplex} * length2;
  const unsigned count = static_cast<unsigned>(lines.end - lines.begin);
  for (int n2 = 0; n2 < length2; ++n2, twiddles += N1, passed += kComplex) {
    const float* from = lines.data + n2 * lines.pitch;
    unsigned line = static_cast<unsigned>(n2 - lines.begin);
    Cx x[N1];
    REPLK_UNROLL
    for (int n1 = 0; n1 < N1; ++n1, from += step, line += static_cast<unsigned>(length2)) {
      x[n1] = line < count ? load_complex(from) : Cx{zero(), zero()};
    }
    Dft<N1>::run(x);
    float* to = passed;
    store_complex(to, x[0]);
    REPLK_UNROLL
    for (int k1 = 1; k1 < N1; ++k1) store_complex(to += step_passed, apply_twiddle(x[k1], twiddles[k1]));
  }
}

// The first pass of the inverse: on all lines of Z, with real and imaginary parts swapped.
template <int N1>
void first_pass_inverse(const float* z, int length2, const float (*twiddles)[2], float* passed) {
  const int64_t step = int64_t{kComplex} * length2;
  for (int n2 = 0; n2 < length2; ++n2, twiddles += N1, passed += kComplex, z += kComplex) {
    const float* from = z;
    Cx x[N1];
    REPLK_UNROLL
    for (int n1 = 0; n1 < N1; ++n1, from += step) x[n1] = swapped(load_complex(from));
    Dft<N1>::run(x);
    float* to = passed;
    store_complex(to, x[0]);
    REPLK_UNROLL
    for (int k1 = 1; k1 < N1; ++k1) store_complex(to += step, apply_twiddle(x[k1], twiddles[k1]));
  }
}

// The last pass of the inverse of the rows: to natural order, swapped; in place.
template <int N1>
void last_pass(float* work, int length2) {
  const int64_t step = int64_t{kComplex} * length2;
  for (int n2 = 0; n2 < length2; ++n2, work += kComplex) {
    float *from = work, *to = work;
    Cx x[N1];
    REPLK_UNROLL
    for (int k1 = 0; k1 < N1; ++k1, from += step) x[k1] = load_complex(from);
    Dft<N1>::run(x);
    REPLK_UNROLL
    for (int n1 = 0; n1 < N1; ++n1, to += step) store_complex(to, swapped(x[n1]));
  }
}

// The second pass for one k1, from passed [n2]: x[k2] is element k1 + N1 k2 of the transform.
template <int N2>
REPLK_INLINE void second(const float* passed, Cx (&x)[N2]) {
  REPLK_UNROLL
  for (int n2 = 0; n2 < N2; ++n2) x[n2] = load_complex(passed + n2 * kComplex);
  Dft<N2>::run(x);
}

// Element k1 + N1 k2 is stored at to + k1 step_k1 + k2 step_k2; may be in place.
template <int N2>
void second_pass(const float* passed, int length1, float* to, int64_t step_k1, int64_t step_k2) {
  for (int k1 = 0; k1 < length1; ++k1, passed += N2 * kComplex, to += step_k1) {
    Cx x[N2];
    second<N2>(passed, x);
    float* place = to;
    REPLK_UNROLL
    for (int k2 = 0; k2 < N2; ++k2, place += step_k2) store_complex(place, x[k2]);
  }
}

// Element k1 + N1 k2, times `scale`, is stored at spectrum [k1][k2].
template <int N2>
void spectrum_pass(const float* passed, int length1, float scale, float* spectrum) {
  const Vec factor = broadcast(scale);
  for (int k1 = 0; k1 < length1; ++k1, passed += N2 * kComplex, spectrum += N2 * kComplex) {
    Cx x[N2];
    second<N2>(passed, x);
    REPLK_UNROLL
    for (int k2 = 0; k2 < N2; ++k2) store_complex(spectrum + k2 * kComplex, {x[k2].re * factor, x[k2].im * factor});
  }
}

// sum [k1][k2] += element k1 + N1 k2 times the conjugate of the same element of `other`.
template <int N2>
void correlate_pass(const float* passed, const float* other, int length1, float* sum) {
  for (int k1 = 0; k1 < length1; ++k1, passed += N2 * kComplex, other += N2 * kComplex, sum += N2 * kComplex) {
    Cx x[N2], y[N2];
    second<N2>(other, y);
    second<N2>(passed, x);
    REPLK_UNROLL
    for (int k2 = 0; k2 < N2; ++k2) {
      float* place = sum + k2 * kComplex;
      store_complex(place, load_complex(place) + multiply_conjugate(x[k2], y[k2]));
    }
  }
}

REPLK_INLINE int clamp_lane(int lane) { return lane < 0 ? 0 : lane > kLanes ? kLanes : lane; }

// The store of result_pass if not all columns are needed.
inline void store_some(const float* results, float* const* places, int rows, int count) {
  const int a_count = clamp_lane(count), b_count = clamp_lane(count - kLanes);
  for (int i = 0; i < rows; ++i, results += kComplex) {
    if (!places[i]) continue;
    store_first(places[i], load(results), a_count);
    store_first(places[i] + kLanes, load(results + kLanes), b_count);
  }
}

// The last pass of the inverse of the columns, to the columns of the target from `column`.
template <int N2>
void result_pass(const float* passed, int length1, int column, const Target& target) {
  const int count = target.columns - column, length = length1 * N2;
  const Vec bias = broadcast(target.bias);
  for (int k1 = 0; k1 < length1; ++k1, passed += N2 * kComplex) {
    float* places[N2];  // null for rows that are not needed
    for (int k2 = 0; k2 < N2; ++k2) {
      int row = k1 + length1 * k2 - target.first_row;
      row -= row >= length ? length : 0;
      places[k2] = row >= 0 && row < target.rows ? target.plane + (row * target.row_stride + column) : nullptr;
    }
    Cx x[N2];
    second<N2>(passed, x);
    REPLK_UNROLL
    for (int k2 = 0; k2 < N2; ++k2) x[k2] = {x[k2].im + bias, x[k2].re + bias};
    if (target.relu) {
      REPLK_UNROLL
      for (int k2 = 0; k2 < N2; ++k2) x[k2] = {relu(x[k2].re), relu(x[k2].im)};
    }
    if (count < 2 * kLanes) {
      alignas(64) float results[N2 * kComplex];
      REPLK_UNROLL
      for (int k2 = 0; k2 < N2; ++k2) store_complex(results + k2 * kComplex, x[k2]);
      store_some(results, places, N2, count);
      continue;
    }
    REPLK_UNROLL
    for (int k2 = 0; k2 < N2; ++k2) {
      if (!places[k2]) continue;
      if (target.streams) {
        stream(places[k2], x[k2].re);
        stream(places[k2] + kLanes, x[k2].im);
      } else {
        store_complex(places[k2], x[k2]);
      }
    }
  }
}

// The second pass, the product with `spectrum` [k1][k2] (is_adjoint: with its conjugate) and the first pass of the
// inverse, in place: the spectrum of the input is never stored.
template <int N2>
void multiply_pass(float* work, int length1, const float (*twiddles)[2], const float* spectrum, bool is_adjoint,
                   RowPrefetch& next) {
  for (int k1 = 0; k1 < length1; ++k1, work += N2 * kComplex, twiddles += N2, spectrum += N2 * kComplex) {
    next.step();
    Cx x[N2];
    second<N2>(work, x);
    if (is_adjoint) {
      REPLK_UNROLL
      for (int k2 = 0; k2 < N2; ++k2)
        x[k2] = swapped(multiply_conjugate(x[k2], load_complex(spectrum + k2 * kComplex)));
    } else {
      REPLK_UNROLL
      for (int k2 = 0; k2 < N2; ++k2) x[k2] = swapped(multiply(x[k2], load_complex(spectrum + k2 * kComplex)));
    }
    Dft<N2>::run(x);
    store_complex(work, x[0]);
    REPLK_UNROLL
    for (int n2 = 1; n2 < N2; ++n2) store_complex(work + n2 * kComplex, apply_twiddle(x[n2], twiddles[n2]));
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_PASSES_H_
