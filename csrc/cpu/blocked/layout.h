// The scratch memory of a thread: channel-blocked float32 arrays.
#ifndef REPLK_CPU_BLOCKED_LAYOUT_H_
#define REPLK_CPU_BLOCKED_LAYOUT_H_

#include "common/task.h"
#include "cpu/blocked/toeplitz.h"
#include "cpu/blocked/transpose.h"
#include "cpu/common/output.h"

namespace replk {
namespace REPLK_ISA {

struct BlockedLayout {
  Kernel kernel;
  ColumnBlock block;
  int64_t blocks, pitch;          // blocks of columns; pixels per row including unused ones
  int64_t y, w, sum, bias, size;  // offsets; x comes first. `sum`: grad weight, over many images; else `sums`

  explicit BlockedLayout(const replk_problem& p) : kernel(p), block(column_block(p.w)) {
    blocks = divide_up(p.w, block.pixels);
    pitch = blocks * block.pixels;
    const int64_t plane = p.h * pitch * kLanes, taps = kernel.kh * kernel.kw * kLanes;
    y = plane;
    w = y + plane;
    sum = w + taps;
    bias = sum + (p.pass == REPLK_GRAD_WEIGHT ? taps : (p.h + 1) / 2 * pitch * kLanes);
    size = bias + round_up(kLanes, kLine);
  }

  int64_t groups(const replk_problem& p) const { return divide_up(p.c, kLanes); }

  int channels(const replk_problem& p, int64_t group) const {
    return static_cast<int>(smaller(kLanes, p.c - group * kLanes));
  }

  PlaneShape plane_shape(const replk_problem& p, int64_t group, const int64_t* stride) const {
    return {p.h, p.w, stride[2], stride[1], pitch, channels(p, group)};
  }

  // Prefetches a plane of this group. Does nothing if all planes fit roughly the second-level cache, where it would
  // cost 3 %, or if rows are not contiguous.
  template <class T>
  Prefetch prefetch(const replk_problem& p, int64_t group, const T* plane, const int64_t* stride) const {
    if (stride[2] != p.w || bytes_of_planes(p) < (4 << 20)) return Prefetch();
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
