// Blocks of the forward pass: R output rows times C vectors of neighboring columns, and the choice of R and C.
//
//   y[i][j] = act(bias + sum_{u,v} x[i + u][j + v] w[v][u])       x padded, w transposed: the rows of w are columns
//
// A strip of at most half a vector's columns at the right edge is folded: the lower half of the lanes computes a row of
// the upper half of the plane and the upper half of the lanes a row of the lower half, so that no lane is idle. x, y
// and w must not overlap; y may have any row stride.
#ifndef REPLK_CPU_DIRECT_ROWS_H_
#define REPLK_CPU_DIRECT_ROWS_H_

#include <cstdint>

#include "cpu/direct/block.h"

namespace replk {
namespace REPLK_ISA {

// Whether the last columns of a plane or band of this size are folded.
static inline bool is_folded(int64_t height, int64_t width) {
  const int64_t tail = width % kLanes;
  return tail > 0 && tail <= kLanes / 2 && height > 1;
}

struct BlockOutput {
  float* y;
  int64_t y_row;
  int64_t y_fold;     // elements from a row to the one in the upper lanes, folded blocks only
  int64_t fold_rows;  // rows of the block whose upper lanes are stored
  int last_columns;   // of the last vector (of either half, where folded); 1 to kLanes
  float bias;
  bool relu;
  bool streams;  // use non-temporal stores: every vector is full and aligned
};

struct RowOperands {
  static REPLK_INLINE Vec input(const float* x, int c, const BlockInput&) { return load(x + c * kLanes); }
  static REPLK_INLINE Vec factor(const float* w, int i, const BlockInput&) { return broadcast(w[-i]); }
  static REPLK_INLINE const float* advance(const float* w, int64_t taps, const BlockInput&) { return w + taps; }
};

struct FoldedOperands : RowOperands {
  static REPLK_INLINE Vec input(const float* x, int, const BlockInput& in) { return load_halves(x, x + in.x_fold); }
};

using RowBlock = void (*)(const BlockInput&, const BlockOutput&);

template <int R, int C>
static void multiply_rows(const BlockInput& in, const BlockOutput& out) {
  Vec acc[R][C];
  REPLK_UNROLL
  for (int i = 0; i < R; ++i) {
    REPLK_UNROLL
    for (int c = 0; c < C; ++c) acc[i][c] = zero();
  }
  multiply_block<RowOperands>(acc, in);
  const Vec bias = broadcast(out.bias);
  float* y = out.y;
  REPLK_UNROLL
  for (int i = 0; i < R; ++i, y += out.y_row) {
    REPLK_UNROLL
    for (int c = 0; c < C; ++c) {
      Vec value = acc[i][c] + bias;
      if (out.relu) value = relu(value);
      if (out.streams) {
        stream(y + c * kLanes, value);
      } else if (c < C - 1 || out.last_columns == kLanes) {
        store(y + c * kLanes, value);
      } else {
        store_first(y + c * kLanes, value, out.last_columns);
      }
    }
  }
}

template <int R>
static void multiply_folded_rows(const BlockInput& in, const BlockOutput& out) {
  Vec acc[R][1];
  REPLK_UNROLL
  for (int i = 0; i < R; ++i) acc[i][0] = zero();
  multiply_block<FoldedOperands>(acc, in);
  const Vec bias = broadcast(out.bias);
  float* y = out.y;
  REPLK_UNROLL
  for (int i = 0; i < R; ++i, y += out.y_row) {
    Vec value = acc[i][0] + bias;
    if (out.relu) value = relu(value);
    store_first(y, value, out.last_columns);
    if (i < out.fold_rows) store_first(y + out.y_fold, swap_halves(value), out.last_columns);
  }
}

struct RowBlockSize {
  int rows;
  RowBlock run;
};

constexpr int kRowSizes = 7;

// Decreasing numbers of rows, ending with one, so that every height can be covered exactly.
struct RowSizes {
  RowBlockSize size[kRowSizes];
};

template <int C, int... R>
static inline RowSizes sizes_of_columns() {
  return {{{R, multiply_rows<R, C>}...}};
}

template <int... R>
static inline RowSizes sizes_of_folded() {
  return {{{R, multiply_folded_rows<R>}...}};
}

// Accumulators, C input vectors and one broadcast fit the registers: 14 x 2 + 3 = 31, 8 x 3 + 4 and 6 x 4 + 5 of 32;
// 6 x 2 + 3 of 16.
template <int kFile>
struct RowTable {
  static constexpr int kMaxColumns = 4;
  static RowSizes columns(int count) {
    return count == 1   ? sizes_of_columns<1, 14, 10, 8, 7, 4, 2, 1>()
           : count == 2 ? sizes_of_columns<2, 14, 10, 8, 6, 4, 2, 1>()
           : count == 3 ? sizes_of_columns<3, 9, 8, 7, 6, 4, 2, 1>()
                        : sizes_of_columns<4, 6, 6, 5, 4, 3, 2, 1>();
  }
  static RowSizes folded() { return sizes_of_folded<14, 10, 8, 7, 4, 2, 1>(); }
};

template <>
struct RowTable<16> {
  static constexpr int kMaxColumns = 2;
  static RowSizes columns(int count) {
    return count == 1 ? sizes_of_columns<1, 10, 8, 7, 6, 4, 2, 1>() : sizes_of_columns<2, 6, 6, 5, 4, 3, 2, 1>();
  }
  static RowSizes folded() { return sizes_of_folded<10, 8, 7, 6, 4, 2, 1>(); }
};

using Rows = RowTable<kRegisters>;
constexpr int kMaxRows = 14;

// The largest block of at most `rows` rows.
static inline int largest_size(const RowSizes& sizes, int64_t rows) {
  int i = 0;
  while (i < kRowSizes - 1 && sizes.size[i].rows > rows) ++i;
  return i;
}

// The block size to start `rows` rows with; the largest ones that fit follow. Small blocks are limited by latency: a
// block costs its number of rows plus a constant. `taps`: see block.h.
static inline int best_size(const RowSizes& sizes, int64_t rows, int64_t taps) {
  constexpr int64_t kBlockCost = 2;
  int best = kRowSizes - 1;
  int64_t least = INT64_MAX;
  for (int i = largest_size(sizes, rows < taps + 1 ? rows : taps + 1); i < kRowSizes; ++i) {
    int64_t cost = 0;
    for (int64_t left = rows; left > 0; cost += kBlockCost) {
      const int next = largest_size(sizes, left);
      left -= sizes.size[next > i ? next : i].rows;
    }
    if (cost < least) {
      best = i;
      least = cost;
    }
  }
  return best;
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_DIRECT_ROWS_H_
