// One row of pixels times one row of the kernel, Q by Q pixels, in the channel-blocked layout:
//
//   forward      y[q] += x[q + d] w[d]             0 <= q + d < Q: the products form a Toeplitz matrix, constant on
//   grad weight  w[d] += sum_q y[q] x[q + d]       each diagonal d
//
// x and y stay in registers; every w is loaded once for its whole diagonal. There is no padding: only existing products
// are computed. Q x's, Q y's and a w must fit the registers, so Q is at most 14 of 32 or 7 of 16. Critical
// instructions: fused multiply-add of registers and aligned loads, about one load for three of them.
#ifndef REPLK_CPU_BLOCKED_TOEPLITZ_H_
#define REPLK_CPU_BLOCKED_TOEPLITZ_H_

#include <cstdint>

#include "cpu/common/prefetch.h"
#include "cpu/common/unroll.h"
#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {

template <int Q>
static REPLK_INLINE void load_pixels(Vec (&pixels)[Q], const float* p) {
  REPLK_UNROLL
  for (int q = 0; q < Q; ++q) pixels[q] = load(p + q * kLanes);
}

// Diagonals kDiagonal to Q - 1; `w` is the tap of diagonal 0, diagonals outside [begin, end) have no tap.
template <int kDiagonal, int Q>
static REPLK_INLINE void multiply_diagonals(Vec (&y)[Q], const Vec (&x)[Q], const float* w, int64_t begin,
                                            int64_t end) {
  if constexpr (kDiagonal < Q) {
    if (kDiagonal >= begin && kDiagonal < end) {
      constexpr int kFirst = kDiagonal < 0 ? -kDiagonal : 0, kLast = kDiagonal < 0 ? Q : Q - kDiagonal;
      const Vec tap = load(w + kDiagonal * kLanes);
      REPLK_UNROLL
      for (int q = kFirst; q < kLast; ++q) y[q] = fma(x[q + kDiagonal], tap, y[q]);
    }
    multiply_diagonals<kDiagonal + 1>(y, x, w, begin, end);
  }
}

// All diagonals, with the difference of the taps at `w` and `less`.
template <int kDiagonal, int Q>
static REPLK_INLINE void multiply_differences(Vec (&y)[Q], const Vec (&x)[Q], const float* w, const float* less) {
  if constexpr (kDiagonal < Q) {
    constexpr int kFirst = kDiagonal < 0 ? -kDiagonal : 0, kLast = kDiagonal < 0 ? Q : Q - kDiagonal;
    const Vec tap = load(w + kDiagonal * kLanes) - load(less + kDiagonal * kLanes);
    REPLK_UNROLL
    for (int q = kFirst; q < kLast; ++q) y[q] = fma(x[q + kDiagonal], tap, y[q]);
    multiply_differences<kDiagonal + 1>(y, x, w, less);
  }
}

template <int kDiagonal, int Q>
static REPLK_INLINE void sum_diagonals(const Vec (&y)[Q], const Vec (&x)[Q], float* w, int64_t begin, int64_t end) {
  if constexpr (kDiagonal < Q) {
    if (kDiagonal >= begin && kDiagonal < end) {
      constexpr int kFirst = kDiagonal < 0 ? -kDiagonal : 0, kLast = kDiagonal < 0 ? Q : Q - kDiagonal;
      Vec sum = load(w + kDiagonal * kLanes);
      REPLK_UNROLL
      for (int q = kFirst; q < kLast; ++q) sum = fma(x[q + kDiagonal], y[q], sum);
      store(w + kDiagonal * kLanes, sum);
    }
    sum_diagonals<kDiagonal + 1>(y, x, w, begin, end);
  }
}

// A channel-blocked plane with its columns in blocks of Q, or a band of rows of it.
struct BlockedPlane {
  int64_t h, blocks;  // rows of the plane; blocks of columns
  int64_t kh, kw;
  int64_t x_row;       // row of the plane that x begins with
  int64_t begin, end;  // rows of y
  const float* x;      // [rows][blocks * Q][kLanes]
  float* y;            // forward: written; grad weight: the output's gradient, read, in the layout of x
  float* w;            // [kh][kw][kLanes]; grad weight: added to
  float* sums;         // forward: written, half the rows of x, rounded up
  const float* bias;   // [kLanes], forward
  bool relu;
  // Forward: elements from a row and a pixel of y to the next, its columns, and what to prefetch pixel by pixel, with
  // the bytes from a pixel to the next.
  int64_t y_row = 0, y_pixel = 0, columns = 0;
  const char* next = nullptr;
  int64_t next_pixel = 0;
};

// Calls function(tap of diagonal 0, begin, end, input block) for the input blocks that contribute to output block
// `block`.
template <int Q, class Function>
static REPLK_INLINE void for_each_block(const BlockedPlane& p, int64_t block, Function function) {
  const int64_t pad = p.kw / 2;
  for (int64_t other = 0; other < p.blocks; ++other) {
    const int64_t tap = (other - block) * Q + pad;  // of diagonal 0
    if (tap + Q - 1 < 0 || tap - (Q - 1) >= p.kw) continue;
    function(tap, -tap, p.kw - tap, other);
  }
}

// Stores columns of block `block` of row i.
template <int Q>
static REPLK_INLINE void store_row(const BlockedPlane& p, const Vec (&y)[Q], int64_t i, int64_t block) {
  const Vec bias = load(p.bias);
  float* out = p.y + (i - p.begin) * p.y_row + block * Q * p.y_pixel;
  const int64_t count = p.columns - block * Q;
  REPLK_UNROLL
  for (int q = 0; q < Q; ++q, out += p.y_pixel) {
    const Vec value = y[q] + bias;
    if (q < count) store(out, p.relu ? relu(value) : value);
  }
}

// One block, with a kernel that covers the whole plane. With the rows in halves x0, x1 and y0, y1, T0 the taps within a
// half, and T1 and T2 those between the halves, Karatsuba's identity saves one product:
//
//   y0 = T0 x0 + T1 x1 = T0 (x0 + x1) + (T1 - T0) x1
//   y1 = T2 x0 + T0 x1 = T0 (x0 + x1) + (T2 - T0) x0
//
// For 7 rows, 40 products of rows instead of 49. Differences of taps are computed on the fly by otherwise idle units.
// Rounding errors are 1.3 times those of plain sums.
template <int Q>
static void convolve_complete(const BlockedPlane& p, PrefetchPair& ahead) {
  const int64_t row = Q * kLanes, taps = p.kw * kLanes, half = (p.h + 1) / 2, rest = p.h - half;
  const float* middle = p.w + (p.kh / 2 * p.kw + p.kw / 2) * kLanes;  // the center tap
  for (int64_t k = 0; k < half * row; k += kLanes) {
    const Vec a = load(p.x + k);
    store(p.sums + k, k < rest * row ? a + load(p.x + half * row + k) : a);
  }
  for (int64_t i = 0; i < half; ++i) {
    Vec y[Q], other[Q], x[Q];
    REPLK_UNROLL
    for (int q = 0; q < Q; ++q) y[q] = zero();
    for (int64_t j = 0; j < half; ++j) {
      load_pixels(x, p.sums + j * row);
      multiply_diagonals<1 - Q>(y, x, middle + (j - i) * taps, -Q, Q);
    }
    REPLK_UNROLL
    for (int q = 0; q < Q; ++q) other[q] = y[q];
    ahead.step();
    for (int64_t j = half; j < p.h; ++j) {
      load_pixels(x, p.x + j * row);
      multiply_differences<1 - Q>(y, x, middle + (j - i) * taps, middle + (j - half - i) * taps);
    }
    store_row(p, y, i, 0);
    if (i >= rest) continue;
    ahead.step();
    for (int64_t j = 0; j < half; ++j) {
      load_pixels(x, p.x + j * row);
      multiply_differences<1 - Q>(other, x, middle + (j - half - i) * taps, middle + (j - i) * taps);
    }
    store_row(p, other, half + i, 0);
  }
}

template <int Q>
static void convolve_blocked(const BlockedPlane& p, PrefetchPair& ahead) {
  if constexpr (Q == 7 || Q == 8) {  // the last stages at 224 and 256 pixels; on larger planes FFTs are faster
    if (p.end - p.begin == p.h && p.blocks == 1 && p.kh == 2 * p.h - 1 && p.kw == 2 * Q - 1)
      return convolve_complete<Q>(p, ahead);
  }
  const int64_t row = p.blocks * Q * kLanes, pad = p.kh / 2;
  for (int64_t i = p.begin; i < p.end; ++i) {
    const int64_t first = i < pad ? pad - i : 0, last = i + p.kh - pad > p.h ? p.h - i + pad : p.kh;
    for (int64_t block = 0; block < p.blocks; ++block) {
      ahead.step();
      Vec y[Q];
      REPLK_UNROLL
      for (int q = 0; q < Q; ++q) y[q] = zero();
      for_each_block<Q>(p, block, [&](int64_t tap, int64_t begin, int64_t end, int64_t other) {
        const float* x_row = p.x + (i + first - pad - p.x_row) * row + other * Q * kLanes;
        const float* w_row = p.w + (first * p.kw + tap) * kLanes;
        for (int64_t u = first; u < last; ++u, x_row += row, w_row += p.kw * kLanes) {
          Vec x[Q];
          load_pixels(x, x_row);
          multiply_diagonals<1 - Q>(y, x, w_row, begin, end);
        }
      });
      store_row(p, y, i, block);
    }
  }
}

template <int Q>
static void correlate_blocked(const BlockedPlane& p, PrefetchPair& ahead) {
  const int64_t row = p.blocks * Q * kLanes, pad = p.kh / 2;
  for (int64_t i = p.begin; i < p.end; ++i) {
    const int64_t first = i < pad ? pad - i : 0, last = i + p.kh - pad > p.h ? p.h - i + pad : p.kh;
    for (int64_t block = 0; block < p.blocks; ++block) {
      ahead.step();
      Vec y[Q];
      load_pixels(y, p.y + (i - p.begin) * row + block * Q * kLanes);
      for_each_block<Q>(p, block, [&](int64_t tap, int64_t begin, int64_t end, int64_t other) {
        const float* x_row = p.x + (i + first - pad - p.x_row) * row + other * Q * kLanes;
        float* w_row = p.w + (first * p.kw + tap) * kLanes;
        for (int64_t u = first; u < last; ++u, x_row += row, w_row += p.kw * kLanes) {
          Vec x[Q];
          load_pixels(x, x_row);
          sum_diagonals<1 - Q>(y, x, w_row, begin, end);
        }
      });
    }
  }
}

struct ColumnBlock {
  int pixels;
  int halo;  // columns of zeros around those of x
  void (*convolve)(const BlockedPlane&, PrefetchPair&);
  void (*correlate)(const BlockedPlane&, PrefetchPair&);
};

template <int... Q>
struct ColumnBlocks {
  static constexpr int kCount = sizeof...(Q);
  // The block size that covers `columns` at the lowest cost: unused columns, and loads at about 2 / Q of a product
  // each.
  static ColumnBlock covering(int64_t columns) {
    constexpr ColumnBlock kBlocks[] = {{Q, 0, convolve_blocked<Q>, correlate_blocked<Q>}...};
    int best = 0;
    double least = 0;
    for (int i = 0; i < kCount; ++i) {
      const int64_t q = kBlocks[i].pixels, covered = (columns + q - 1) / q * q;
      const double cost = static_cast<double>(covered) * (1.0 + 2.0 / static_cast<double>(q));
      if (i == 0 || cost < least) {
        best = i;
        least = cost;
      }
    }
    return kBlocks[best];
  }
};

template <int kFile>
struct ColumnBlockTable : ColumnBlocks<1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14> {};
template <>
struct ColumnBlockTable<16> : ColumnBlocks<1, 2, 3, 4, 5, 6, 7> {};

static inline ColumnBlock column_block(int64_t columns) { return ColumnBlockTable<kRegisters>::covering(columns); }

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_BLOCKED_TOEPLITZ_H_
