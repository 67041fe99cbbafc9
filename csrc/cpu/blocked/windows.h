// Rows of K taps, Q pixels at a time, in the channel-blocked layout: the kernels that are narrow compared with the
// plane.
//
//   y[q] += x[q + v] w[v]      0 <= q < Q,  0 <= v < K
//
// y stays in registers, and each w is loaded once for all Q sums. With 32 registers, a window of x stays in registers
// too: Q y's, Q x's and a w fit them for Q up to 14, and there is about one load for three multiply-adds. With 16, x is
// read from memory for each product, which is no slower where two loads are possible in each cycle, and allows more
// sums, which hide the latency. Rows outside the plane are skipped; columns outside it are zeros in the padded copy of
// x. Critical instructions: fused multiply-add, aligned loads.
#ifndef REPLK_CPU_BLOCKED_WINDOWS_H_
#define REPLK_CPU_BLOCKED_WINDOWS_H_

#include "cpu/blocked/toeplitz.h"
#include "cpu/common/geometry.h"

namespace replk {
namespace REPLK_ISA {

template <int K, int Q>
static REPLK_INLINE void multiply_window(Vec (&y)[Q], const float* x, const float* w) {
  if constexpr (kRegisters < 32) {
    REPLK_UNROLL
    for (int v = 0; v < K; ++v) {
      const float* at = opaque(x + v * kLanes);
      const Vec tap = in_register(load(w + v * kLanes));
      REPLK_UNROLL
      for (int q = 0; q < Q; ++q) y[q] = fma(load(at + q * kLanes), tap, y[q]);
    }
  } else {
    Vec window[Q + K - 1];
    REPLK_UNROLL
    for (int q = 0; q < Q - 1; ++q) window[q] = load(x + q * kLanes);
    REPLK_UNROLL
    for (int v = 0; v < K; ++v) {
      window[Q - 1 + v] = load(x + (Q - 1 + v) * kLanes);
      const Vec tap = load(w + v * kLanes);
      REPLK_UNROLL
      for (int q = 0; q < Q; ++q) y[q] = fma(window[q + v], tap, y[q]);
    }
  }
}

// Strips of Q columns one after the other, whose rows stay in the first-level cache.
template <int K, int Q>
static void convolve_windows(const BlockedPlane& p, PrefetchPair& ahead) {
  const int64_t x_row = (p.blocks * Q + K - 1) * kLanes, pad = p.kh / 2;
  const char* next = p.next;
  for (int64_t block = 0; block < p.blocks; ++block) {
    for (int64_t i = p.begin; i < p.end; ++i) {
      ahead.step();
      const int64_t first = i < pad ? pad - i : 0, last = i + p.kh - pad > p.h ? p.h - i + pad : p.kh;
      const float* x = p.x + (i + first - pad - p.x_row) * x_row + block * Q * kLanes;
      const float* w = p.w + first * K * kLanes;
      Vec y[Q];
      REPLK_UNROLL
      for (int q = 0; q < Q; ++q) y[q] = zero();
      for (int64_t u = first; u < last; ++u, x += x_row, w += K * kLanes) {
        REPLK_UNROLL
        for (int k = 0; k < (Q + K - 1) / K; ++k, next += p.next_pixel) prefetch(next);
        multiply_window<K>(y, x, w);
      }
      store_row(p, y, i, block);
    }
  }
}

// The largest block of K taps of those that leave the fewest columns unused; all sizes reach the multiply-add peak of a
// Zen 4 with AVX-512 (115 to 118 of 118 GFLOP/s for K = 7, 9 and 13; 90 for K = 3).
template <int K, int... Q>
static inline ColumnBlock covering_windows(int64_t columns) {
  constexpr ColumnBlock kBlocks[] = {{Q, K - 1, convolve_windows<K, Q>, nullptr}...};
  const auto covered = [&](const ColumnBlock& block) { return round_up(columns, block.pixels); };
  const ColumnBlock* best = kBlocks;
  for (const ColumnBlock& block : kBlocks) {
    if (covered(block) < covered(*best)) best = &block;
  }
  return *best;
}

template <int K>
static inline ColumnBlock window_block(int64_t columns) {
  if constexpr (kRegisters < 32) {
    return covering_windows<K, 12, 10, 8, 7>(columns);
  } else {
    return covering_windows<K, 14, 12, 10, 8, 7>(columns);
  }
}

// The block for rows of `taps` taps, if there is one that needs few products with zeros. One block of toeplitz.h that
// covers a whole row needs none and is as fast.
static inline bool find_window_block(int64_t columns, int64_t taps, ColumnBlock& block) {
  if (columns < taps || column_block(columns).pixels >= columns) return false;
  switch (taps) {
    case 3:
      return block = window_block<3>(columns), true;
    case 5:
      return block = window_block<5>(columns), true;
    case 7:
      return block = window_block<7>(columns), true;
    case 9:
      return block = window_block<9>(columns), true;
    case 11:
      return block = window_block<11>(columns), true;
    case 13:
      return block = window_block<13>(columns), true;
    default:
      return false;
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_BLOCKED_WINDOWS_H_
