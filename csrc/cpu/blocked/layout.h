// The scratch memory of a thread: channel-blocked float32 arrays.
#ifndef REPLK_CPU_BLOCKED_LAYOUT_H_
#define REPLK_CPU_BLOCKED_LAYOUT_H_

#include "common/task.h"
#include "cpu/blocked/transpose.h"
#include "cpu/blocked/windows.h"
#include "cpu/common/output.h"

namespace replk {
namespace REPLK_ISA {

// Floats of x and y in a band, and the least number of items of a thread, so that all end at about the same time.
constexpr int64_t kBandSize = 64 * 1024, kItemsPerThread = 4;

struct BlockedLayout {
  Kernel kernel;
  ColumnBlock block;
  int64_t blocks;                 // of columns
  int64_t x_pitch, y_pitch;       // pixels per row including unused ones
  int64_t x;                      // offset of row 0, column 0 of x
  int64_t bands, height;          // bands of rows, and rows of y in a band
  int64_t y, w, sum, bias, size;  // offsets. `sum`: grad weight, over many images; else `sums`

  BlockedLayout(const replk_problem& p, const replk_plan& plan) : kernel(p) {
    if (p.pass == REPLK_GRAD_WEIGHT || !find_window_block(p.w, kernel.kw, block)) block = column_block(p.w);
    blocks = divide_up(p.w, block.pixels);
    y_pitch = blocks * block.pixels;
    x_pitch = y_pitch + block.halo;
    x = block.halo / 2 * kLanes;
    // Planes are transposed as a whole. Channels-last tensors are cut into bands whose rows stay in the caches, and
    // that threads can share; the rows of the kernel's halo are copied again for every band. Results do not depend on
    // the bands.
    const int64_t h = larger(p.h, 1), row = larger(x_pitch, 1) * kLanes, halo = kernel.kh - 1;
    const int64_t fitting = plan.channels_last ? larger((kBandSize / row - halo) / 2, smaller(kernel.kh, h)) : h;
    bands = divide_up(h, fitting);
    const int64_t groups = larger(p.n * divide_up(p.c, kLanes), 1), enough = kItemsPerThread * p.threads;
    if (plan.channels_last && p.threads > 1 && groups * bands < enough) {
      bands = larger(bands, smaller(divide_up(enough, groups), h / larger(kernel.kh, 8)));
    }
    height = divide_up(h, bands);
    bands = divide_up(h, height);
    const int64_t taps = kernel.kh * kernel.kw * kLanes;
    y = smaller(height + halo, p.h) * row;
    w = y + height * y_pitch * kLanes;
    sum = w + taps;
    bias = sum + (p.pass == REPLK_GRAD_WEIGHT ? taps : blocks == 1 ? (height + 1) / 2 * y_pitch * kLanes : 0);
    size = bias + round_up(kLanes, kLine);
  }

  // The first row of x that the band of an item reads.
  int64_t first_row(int64_t item) const { return larger(item % bands * height - kernel.pad_h(), 0); }

  int channels(const replk_problem& p, int64_t group) const {
    return static_cast<int>(smaller(kLanes, p.c - group * kLanes));
  }

  PlaneShape plane_shape(const replk_problem& p, const replk_plan& plan, int64_t group, const int64_t* stride,
                         int64_t pitch) const {
    return group_shape(p, plan, stride, pitch, channels(p, group));
  }

  // Prefetches a plane of this group. Does nothing if all planes fit roughly the second-level cache, where it would
  // cost 3 %, if rows are not contiguous, or in channels-last tensors.
  template <class T>
  Prefetch prefetch(const replk_problem& p, const replk_plan& plan, int64_t group, const T* plane,
                    const int64_t* stride) const {
    if (plan.channels_last || stride[2] != p.w || bytes_of_planes(p) < (4 << 20)) return Prefetch();
    const int64_t size = sizeof(T);
    return Prefetch(plane, channels(p, group), p.h * p.w * size, stride[1] * size);
  }

  // The taps that overlap the plane.
  PlaneShape weight_shape(const replk_problem& p, int64_t group) const {
    return {kernel.kh, kernel.kw, kernel.full_w, kernel.full_h * kernel.full_w, kernel.kw, channels(p, group)};
  }
  int64_t weight_offset(int64_t group) const {
    return group * kLanes * kernel.full_h * kernel.full_w + kernel.crop_h * kernel.full_w + kernel.crop_w;
  }
};

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_BLOCKED_LAYOUT_H_
