// Grad weight by blocks of R x C taps:
//
//   dw[u0 + i][v0 + c] += sum_{r,j} x[u0 + r][v0 + c + j] dy[r - i][j]        x padded, 0 <= i < R, 0 <= c < C
//
// the block of block.h with rows of x as positions, rows of dy as factors and vectors of columns as steps. Lanes are
// neighboring columns and are summed at the end. Both planes are copied: x with its padding, dy with zeros up to the
// end of its last vector. Critical instructions: fused multiply-add, with C unaligned and R aligned loads for R C of
// them.
#ifndef REPLK_CPU_DIRECT_GRAD_WEIGHT_H_
#define REPLK_CPU_DIRECT_GRAD_WEIGHT_H_

#include "cpu/common/copy.h"
#include "cpu/direct/block.h"

namespace replk {
namespace REPLK_ISA {

struct TapOperands {
  static REPLK_INLINE Vec input(const float* x, int c, const BlockInput&) { return load(x + c); }
  static REPLK_INLINE Vec factor(const float* g, int i, const BlockInput& in) { return load(g - i * in.w_tap); }
  static REPLK_INLINE const float* advance(const float* g, int64_t rows, const BlockInput& in) {
    return g + rows * in.w_tap;
  }
};

// Adds to the sums of R x C taps, a vector each; `row` elements from a row of taps to the next.
using TapBlock = void (*)(const BlockInput&, float* sums, int64_t row);

template <int R, int C>
static void multiply_taps(const BlockInput& in, float* sums, int64_t row) {
  Vec acc[R][C];
  REPLK_UNROLL
  for (int i = 0; i < R; ++i) {
    REPLK_UNROLL
    for (int c = 0; c < C; ++c) acc[i][c] = load(sums + i * row + c * kLanes);
  }
  multiply_block<TapOperands>(acc, in);
  REPLK_UNROLL
  for (int i = 0; i < R; ++i) {
    REPLK_UNROLL
    for (int c = 0; c < C; ++c) store(sums + i * row + c * kLanes, acc[i][c]);
  }
}

// 6 x 4 accumulators, 4 inputs and a factor fit 32 registers; 4 x 3 + 4 fit 16.
template <int kFile>
struct TapTable {
  static constexpr int kMaxRows = 6, kMaxColumns = 4;
  static TapBlock block(int rows, int columns) { return kBlocks[rows - 1][columns - 1]; }

 private:
  static constexpr TapBlock kBlocks[kMaxRows][kMaxColumns] = {
      {multiply_taps<1, 1>, multiply_taps<1, 2>, multiply_taps<1, 3>, multiply_taps<1, 4>},
      {multiply_taps<2, 1>, multiply_taps<2, 2>, multiply_taps<2, 3>, multiply_taps<2, 4>},
      {multiply_taps<3, 1>, multiply_taps<3, 2>, multiply_taps<3, 3>, multiply_taps<3, 4>},
      {multiply_taps<4, 1>, multiply_taps<4, 2>, multiply_taps<4, 3>, multiply_taps<4, 4>},
      {multiply_taps<5, 1>, multiply_taps<5, 2>, multiply_taps<5, 3>, multiply_taps<5, 4>},
      {multiply_taps<6, 1>, multiply_taps<6, 2>, multiply_taps<6, 3>, multiply_taps<6, 4>},
  };
};

template <>
struct TapTable<16> {
  static constexpr int kMaxRows = 4, kMaxColumns = 3;
  static TapBlock block(int rows, int columns) { return kBlocks[rows - 1][columns - 1]; }

 private:
  static constexpr TapBlock kBlocks[kMaxRows][kMaxColumns] = {
      {multiply_taps<1, 1>, multiply_taps<1, 2>, multiply_taps<1, 3>},
      {multiply_taps<2, 1>, multiply_taps<2, 2>, multiply_taps<2, 3>},
      {multiply_taps<3, 1>, multiply_taps<3, 2>, multiply_taps<3, 3>},
      {multiply_taps<4, 1>, multiply_taps<4, 2>, multiply_taps<4, 3>},
  };
};

using Taps = TapTable<kRegisters>;

// Scratch of a thread: the copies in float32, a vector of sums for every tap, and their totals in float64.
struct GradWeightLayout {
  Kernel kernel;
  Bands bands;
  int64_t g_pitch, g, sums, totals, size;  // in float32

  explicit GradWeightLayout(const replk_problem& p) : kernel(p), bands(cut_into_bands(p, kernel)) {
    const int64_t taps = kernel.kh * kernel.kw;
    g_pitch = round_up(bands.width, kLine);
    if (g_pitch / kLine % 2 == 0) g_pitch += kLine;
    g = bands.copy_size();
    sums = g + bands.height * g_pitch;
    totals = sums + round_up(taps * kLanes, kLine);
    size = totals + round_up(2 * taps, kLine);
  }
};

class ChannelCorrelation {
 public:
  ChannelCorrelation(const GradWeightLayout& layout, float* scratch)
      : kernel_(layout.kernel),
        x_(scratch + layout.bands.margin - layout.kernel.pad_w()),
        g_(scratch + layout.g),
        sums_(scratch + layout.sums),
        totals_(reinterpret_cast<double*>(scratch + layout.totals)) {
    in_ = {nullptr, layout.bands.pitch, kLanes, 0, scratch + layout.g, layout.g_pitch, kLanes, 0, 0, 0, 0};
    clear(sums_, kernel_.kh * kernel_.kw * kLanes);
    for (int64_t tap = 0; tap < kernel_.kh * kernel_.kw; ++tap) totals_[tap] = 0;
  }

  // Rows of the copy before `first` and from `last` on are outside the plane.
  void add_band(int64_t height, int64_t width, int64_t first, int64_t last) {
    // Longer float32 sums lose accuracy.
    constexpr int64_t kMaxProducts = 512;
    const int64_t steps = divide_up(width, kLanes), steps_at_once = larger(kMaxProducts / height, 1);
    for (int64_t step = 0; step < steps; step += steps_at_once) {
      in_.steps = smaller(steps_at_once, steps - step);
      if (products_ + height * in_.steps > kMaxProducts) add_up();
      products_ += height * in_.steps;
      add_columns(step * kLanes, height, first, last);
    }
  }

  template <class T>
  void finish(T* weight) {
    add_up();
    for (int64_t i = 0; i < kernel_.full_h * kernel_.full_w; ++i) weight[i] = T(0);
    T* corner = weight + kernel_.crop_h * kernel_.full_w + kernel_.crop_w;
    for (int64_t u = 0; u < kernel_.kh; ++u) {
      for (int64_t v = 0; v < kernel_.kw; ++v) {
        corner[u * kernel_.full_w + v] = from_float<T>(static_cast<float>(totals_[u * kernel_.kw + v]));
      }
    }
  }

 private:
  // Products of in_.steps vectors of columns from `column` on.
  void add_columns(int64_t column, int64_t height, int64_t first, int64_t last) {
    in_.w = g_ + column;
    in_.taps = height;
    const int64_t row_limit = smaller(Taps::kMaxRows, height + 1);
    const int64_t row_blocks = divide_up(kernel_.kh, row_limit);
    const int64_t column_blocks = divide_up(kernel_.kw, Taps::kMaxColumns);
    for (int64_t a = 0, u = 0; a < row_blocks; ++a) {
      const int rows = static_cast<int>(kernel_.kh / row_blocks + (a < kernel_.kh % row_blocks));
      in_.first = smaller(larger(first - u, 0), height);
      in_.last = larger(smaller(last - u, height + rows - 1), rows - 1);
      for (int64_t b = 0, v = 0; b < column_blocks; ++b) {
        const int columns = static_cast<int>(kernel_.kw / column_blocks + (b < kernel_.kw % column_blocks));
        in_.x = x_ + u * in_.x_position + v + column;
        Taps::block(rows, columns)(in_, sums_ + (u * kernel_.kw + v) * kLanes, kernel_.kw * kLanes);
        v += columns;
      }
      u += rows;
    }
  }

  void add_up() {
    for (int64_t tap = 0; tap < kernel_.kh * kernel_.kw; ++tap) {
      totals_[tap] += static_cast<double>(sum(load(sums_ + tap * kLanes)));
      store(sums_ + tap * kLanes, zero());
    }
    products_ = 0;
  }

  const Kernel& kernel_;
  const float* x_;
  const float* g_;
  float* sums_;
  double* totals_;
  int64_t products_ = 0;
  BlockInput in_;
};

// Items are channels: the sum over images and bands has one order whatever the threads.
template <class T>
static void correlate_items(const Task& task, int64_t begin, int64_t end, float* scratch) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  const GradWeightLayout layout(p);
  const Kernel& k = layout.kernel;
  const Bands& bands = layout.bands;
  const bool is_empty = p.n * p.h * p.w == 0;
  clear(scratch, bands.copy_size());
  for (int64_t c = begin; c < end; ++c) {
    ChannelCorrelation channel(layout, scratch);
    for (int64_t item = 0; !is_empty && item < p.n * bands.count(); ++item) {
      const PlaneBand at(item / bands.count() * p.c * bands.count() + c * bands.count() + item % bands.count(), p,
                         bands);
      const T* x = static_cast<const T*>(b.input) + at.n * b.input_stride[0] + c * b.input_stride[1];
      const T* g = static_cast<const T*>(b.grad) + at.n * b.grad_stride[0] + c * b.grad_stride[1] +
                   at.i0 * b.grad_stride[2] + at.j0;
      copy_band(scratch, bands, k, x, b.input_stride[2], p.h, p.w, at.i0, at.height, at.j0, at.width,
                bands.count() > 1);
      for (int64_t i = 0; i < at.height; ++i) {
        copy_row(scratch + layout.g + i * layout.g_pitch, g + i * b.grad_stride[2], at.width);
      }
      channel.add_band(at.height, at.width, k.pad_h() - at.i0, k.pad_h() - at.i0 + p.h);
    }
    channel.finish(static_cast<T*>(b.output) + c * p.kh * p.kw);
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_DIRECT_GRAD_WEIGHT_H_
