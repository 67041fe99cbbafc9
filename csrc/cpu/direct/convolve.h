// Forward and grad input by blocks of rows over a padded copy: see rows.h for the arithmetic, geometry.h for the
// layout.
#ifndef REPLK_CPU_DIRECT_CONVOLVE_H_
#define REPLK_CPU_DIRECT_CONVOLVE_H_

#include "cpu/common/copy.h"
#include "cpu/common/output.h"
#include "cpu/common/prefetch.h"
#include "cpu/direct/rows.h"

namespace replk {
namespace REPLK_ISA {

// Scratch of a thread, in float32: the copy, the weight, and a block of results that are stored as bfloat16.
struct ConvolveLayout {
  Kernel kernel;
  Bands bands;
  int64_t weight, block, size;

  explicit ConvolveLayout(const replk_problem& p) : kernel(p), bands(cut_into_bands(p, kernel)) {
    weight = bands.copy_size();
    block = weight + round_up(kernel.kh * kernel.kw, kLine);
    size = block + 2 * kMaxRows * Rows::kMaxColumns * kLanes;
  }
};

// The sizes of the row blocks that cover a number of rows.
class Schedule {
 public:
  Schedule() = default;
  Schedule(const RowSizes& sizes, int64_t rows, int64_t taps) : sizes_(sizes), first_(best_size(sizes, rows, taps)) {}
  const RowBlockSize& next(int64_t rows) const {
    const int largest = largest_size(sizes_, rows);
    return sizes_.size[largest > first_ ? largest : first_];
  }

 private:
  RowSizes sizes_;
  int first_ = 0;
};

// One band of one plane: its padded copy becomes height x width results at y.
template <class T>
class BandConvolution {
 public:
  BandConvolution(const ConvolveLayout& layout, float* scratch, bool relu, bool streams)
      : kernel_(layout.kernel),
        pitch_(layout.bands.pitch),
        x_(scratch + layout.bands.margin - layout.kernel.pad_w()),
        block_(scratch + layout.block) {
    in_ = {nullptr, pitch_, 1, 0, scratch + layout.weight, 1, kernel_.kh, kernel_.kw, kernel_.kh, 0, 0};
    out_ = {nullptr, 0, 0, 0, kLanes, 0, relu, streams};
    for (int c = 0; c < Rows::kMaxColumns; ++c) {
      tiles_[c] = Schedule(Rows::columns(c + 1), layout.bands.height, kernel_.kh);
    }
    folded_ = Schedule(Rows::folded(), divide_up(layout.bands.height, 2), kernel_.kh);
  }

  // Rows of the copy before `first` and from `last` on are outside the plane.
  void run(T* y, int64_t y_row, float bias, int64_t height, int64_t width, int64_t first, int64_t last,
           PrefetchPair& ahead) {
    out_.bias = bias;
    int64_t vectors = width / kLanes;
    const int tail = static_cast<int>(width % kLanes);
    const bool folds = is_folded(height, width);
    if (tail > 0 && !folds) ++vectors;
    const int64_t tiles = divide_up(vectors, Rows::kMaxColumns);
    int64_t vector = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int columns = static_cast<int>(vectors / tiles + (tile < vectors % tiles));
      out_.last_columns = tail > 0 && !folds && tile == tiles - 1 ? tail : kLanes;
      run_tile(y + vector * kLanes, y_row, columns, height, vector * kLanes, first, last, ahead);
      vector += columns;
    }
    if (folds) run_folded(y + vector * kLanes, y_row, tail, height, vector * kLanes);
  }

 private:
  void run_tile(T* y, int64_t y_row, int columns, int64_t height, int64_t column, int64_t first, int64_t last,
                PrefetchPair& ahead) {
    const Schedule& schedule = tiles_[columns - 1];
    for (int64_t i = 0; i < height;) {
      const RowBlockSize& size = schedule.next(height - i);
      in_.x = x_ + i * pitch_ + column;
      in_.first = larger(first - i, 0);
      in_.last = smaller(last - i, kernel_.kh + size.rows - 1);
      ahead.step(size.rows * columns);
      store_block(size, y + i * y_row, y_row, 0, columns);
      i += size.rows;
    }
  }

  void run_folded(T* y, int64_t y_row, int tail, int64_t height, int64_t column) {
    const int64_t half = divide_up(height, 2);
    out_.last_columns = tail;
    in_.x_fold = half * pitch_;
    in_.first = 0;
    for (int64_t i = 0; i < half;) {
      const RowBlockSize& size = folded_.next(half - i);
      in_.x = x_ + i * pitch_ + column;
      in_.last = kernel_.kh + size.rows - 1;
      out_.fold_rows = smaller(size.rows, height - half - i);
      store_block(size, y + i * y_row, y_row, half * y_row, 1);
      i += size.rows;
    }
  }

  void store_block(const RowBlockSize& size, float* y, int64_t y_row, int64_t y_fold, int) {
    out_.y = y;
    out_.y_row = y_row;
    out_.y_fold = y_fold;
    size.run(in_, out_);
  }

  void store_block(const RowBlockSize& size, uint16_t* y, int64_t y_row, int64_t y_fold, int columns) {
    const int64_t fold = y_fold > 0 ? int64_t{kMaxRows} * kLanes : 0;
    out_.y = block_;
    out_.y_row = columns * kLanes;
    out_.y_fold = fold;
    size.run(in_, out_);
    for (int64_t i = 0; i < size.rows; ++i) {
      const float* from = block_ + i * out_.y_row;
      uint16_t* to = y + i * y_row;
      for (int c = 0; c < columns - 1; ++c) store(to + c * kLanes, load(from + c * kLanes));
      const int last = (columns - 1) * kLanes;
      store_first(to + last, load_first(from + last, out_.last_columns), out_.last_columns);
      if (fold > 0 && i < out_.fold_rows) {
        store_first(to + y_fold, load_first(from + fold, out_.last_columns), out_.last_columns);
      }
    }
  }

  const Kernel& kernel_;
  int64_t pitch_;
  const float* x_;
  float* block_;
  Schedule tiles_[Rows::kMaxColumns], folded_;
  BlockInput in_;
  BlockOutput out_;
};

// Items are bands; those of one plane are consecutive, so that its weight is prepared once.
template <class T>
static void convolve_items(const Task& task, int64_t begin, int64_t end, float* scratch) {
  const replk_problem& p = task.problem;
  const replk_buffers& buffers = task.buffers;
  const ConvolveLayout layout(p);
  const Kernel& k = layout.kernel;
  const Bands& bands = layout.bands;
  const T* weight = static_cast<const T*>(buffers.weight);
  const T* bias = static_cast<const T*>(buffers.bias);
  const auto band_of = [&](int64_t item) { return PlaneBand(item, p, bands); };
  const auto input = [&](const PlaneBand& at) {
    return static_cast<const T*>(buffers.input) + at.n * buffers.input_stride[0] + at.c * buffers.input_stride[1];
  };
  const auto output = [&](const PlaneBand& at) {
    return static_cast<T*>(buffers.output) + at.n * buffers.output_stride[0] + at.c * buffers.output_stride[1];
  };
  const bool is_large = is_larger_than_caches(p);
  const bool streams = is_large && can_stream(buffers, p);
  BandConvolution<T> convolution(layout, scratch, p.activation == REPLK_RELU, streams);
  clear(scratch, bands.copy_size());
  int64_t ready = -1;
  for (int64_t item = begin; item < end; ++item) {
    const PlaneBand at = band_of(item), next = band_of(item + 1 < end ? item + 1 : item);
    if (at.c != ready) {
      transpose_weight(scratch + layout.weight, weight + at.c * p.kh * p.kw, k, p.pass == REPLK_GRAD_INPUT);
      ready = at.c;
    }
    copy_band(scratch, bands, k, input(at), buffers.input_stride[2], p.h, p.w, at.i0, at.height, at.j0, at.width,
              bands.count() > 1 && is_folded(at.height, at.width));
    T* y = output(at) + at.i0 * buffers.output_stride[2] + at.j0;
    PrefetchPair ahead(next.prefetch(is_large, input(next), buffers.input_stride[2]),
                       next.prefetch(is_large && !streams, output(next), buffers.output_stride[2]),
                       at.height * divide_up(at.width, kLanes));
    convolution.run(y, buffers.output_stride[2], bias ? to_float(bias[at.c]) : 0.0f, at.height, at.width,
                    k.pad_h() - at.i0, k.pad_h() - at.i0 + p.h, ahead);
  }
  if (streams) stream_fence();
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_DIRECT_CONVOLVE_H_
