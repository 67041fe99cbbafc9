// One row of pixels against one row of the kernel, Q pixels by Q pixels, with channels in the lanes:
//
//   forward      y[q] += x[q + d] w[d]             0 <= q + d < Q: the products form a Toeplitz matrix, constant on
//   grad weight  w[d] += sum_q y[q] x[q + d]       each diagonal d
//
// x and y stay in registers, every w is loaded once for its whole diagonal. Only products that exist are computed:
// there is no padding at all. Q x's, Q y's and a w fit the registers, so Q is at most 14 of 32 or 7 of 16. Instructions
// that matter: fused multiply-add of registers and aligned loads, about one load to three of them.
#ifndef REPLK_CPU_LANES_TOEPLITZ_H_
#define REPLK_CPU_LANES_TOEPLITZ_H_

#include <cstdint>

#include "cpu/direct/prefetch.h"
#include "cpu/direct/unroll.h"
#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {

template <int Q>
static REPLK_INLINE void load_pixels(Vec (&pixels)[Q], const float* p) {
  REPLK_UNROLL
  for (int q = 0; q < Q; ++q) pixels[q] = load(p + q * kLanes);
}

// Diagonals kDiagonal to Q - 1; `w` is the tap of diagonal 0, diagonals outside of [begin, end) have no tap.
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

// A plane in the lanes, its columns in blocks of Q.
struct LanePlane {
  int64_t h, blocks;  // rows; blocks of columns
  int64_t kh, kw;
  const float* x;     // [h][blocks * Q][kLanes]; grad weight: x
  float* y;           // forward: written, the same layout; grad weight: the output's gradient, read
  float* w;           // [kh][kw][kLanes]; grad weight: added to
  const float* bias;  // [kLanes], forward
  bool relu;
};

// Calls function(first tap of the row of diagonals 0, begin, end, input block) for the input blocks that meet the taps
// of output block `block`.
template <int Q, class Function>
static REPLK_INLINE void for_each_block(const LanePlane& p, int64_t block, Function function) {
  const int64_t pad = p.kw / 2;
  for (int64_t other = 0; other < p.blocks; ++other) {
    const int64_t tap = (other - block) * Q + pad;  // of diagonal 0
    if (tap + Q - 1 < 0 || tap - (Q - 1) >= p.kw) continue;
    function(tap, -tap, p.kw - tap, other);
  }
}

template <int Q>
static void convolve_lanes(const LanePlane& p, PrefetchPair& ahead) {
  const int64_t row = p.blocks * Q * kLanes, pad = p.kh / 2;
  const Vec bias = load(p.bias);
  for (int64_t i = 0; i < p.h; ++i) {
    ahead.step();
    const int64_t first = i < pad ? pad - i : 0, last = i + p.kh - pad > p.h ? p.h - i + pad : p.kh;
    for (int64_t block = 0; block < p.blocks; ++block) {
      Vec y[Q];
      REPLK_UNROLL
      for (int q = 0; q < Q; ++q) y[q] = zero();
      for_each_block<Q>(p, block, [&](int64_t tap, int64_t begin, int64_t end, int64_t other) {
        const float* x_row = p.x + (i + first - pad) * row + other * Q * kLanes;
        const float* w_row = p.w + (first * p.kw + tap) * kLanes;
        for (int64_t u = first; u < last; ++u, x_row += row, w_row += p.kw * kLanes) {
          Vec x[Q];
          load_pixels(x, x_row);
          multiply_diagonals<1 - Q>(y, x, w_row, begin, end);
        }
      });
      float* out = p.y + i * row + block * Q * kLanes;
      REPLK_UNROLL
      for (int q = 0; q < Q; ++q) {
        const Vec value = y[q] + bias;
        store(out + q * kLanes, p.relu ? relu(value) : value);
      }
    }
  }
}

template <int Q>
static void correlate_lanes(const LanePlane& p, PrefetchPair& ahead) {
  const int64_t row = p.blocks * Q * kLanes, pad = p.kh / 2;
  for (int64_t i = 0; i < p.h; ++i) {
    ahead.step();
    const int64_t first = i < pad ? pad - i : 0, last = i + p.kh - pad > p.h ? p.h - i + pad : p.kh;
    for (int64_t block = 0; block < p.blocks; ++block) {
      Vec y[Q];
      load_pixels(y, p.y + i * row + block * Q * kLanes);
      for_each_block<Q>(p, block, [&](int64_t tap, int64_t begin, int64_t end, int64_t other) {
        const float* x_row = p.x + (i + first - pad) * row + other * Q * kLanes;
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

struct LaneBlock {
  int pixels;
  void (*convolve)(const LanePlane&, PrefetchPair&);
  void (*correlate)(const LanePlane&, PrefetchPair&);
};

template <int... Q>
struct LaneBlocks {
  static constexpr int kCount = sizeof...(Q);
  // The block that covers `columns` with least work: idle columns count, and so do loads, about 2 / Q of a product.
  static LaneBlock covering(int64_t columns) {
    constexpr LaneBlock kBlocks[] = {{Q, convolve_lanes<Q>, correlate_lanes<Q>}...};
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
struct LaneTable : LaneBlocks<1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14> {};
template <>
struct LaneTable<16> : LaneBlocks<1, 2, 3, 4, 5, 6, 7> {};

static inline LaneBlock lane_block(int64_t columns) { return LaneTable<kRegisters>::covering(columns); }

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_LANES_TOEPLITZ_H_
