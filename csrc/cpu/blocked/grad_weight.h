// Grad weight in the channel-blocked layout: sums over pixels and images stay in that layout until the end.
#ifndef REPLK_CPU_BLOCKED_GRAD_WEIGHT_H_
#define REPLK_CPU_BLOCKED_GRAD_WEIGHT_H_

#include "cpu/blocked/layout.h"
#include "cpu/common/copy.h"

namespace replk {
namespace REPLK_ISA {

// Pixels per partial sum, to limit rounding errors: partial sums are then added to the sum over all images.
constexpr int64_t kPixelsPerSum = 1024;

static inline void add_and_clear(float* sum, float* part, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    store(sum + i, load(sum + i) + load(part + i));
    store(part + i, zero());
  }
}

// Items are groups of channels.
template <class T>
static void correlate_groups(const Task& task, int64_t begin, int64_t end, float* scratch) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  const BlockedLayout layout(p, task.plan);
  const Kernel& k = layout.kernel;
  const int64_t taps = k.kh * k.kw * kLanes, images_per_sum = divide_up(kPixelsPerSum, larger(p.h * p.w, 1));
  clear(scratch, layout.size);
  const BlockedPlane plane = {
      p.h,     layout.blocks, k.kh, k.kw, 0, 0, p.h, scratch, scratch + layout.y, scratch + layout.w,
      nullptr, nullptr,       false};
  for (int64_t group = begin; group < end; ++group) {
    for (int64_t n = 0; n < p.n; ++n) {
      const T* x = static_cast<const T*>(b.input) + n * b.input_stride[0] + group * kLanes * b.input_stride[1];
      const T* g = static_cast<const T*>(b.grad) + n * b.grad_stride[0] + group * kLanes * b.grad_stride[1];
      planes_to_blocked(scratch, x, layout.plane_shape(p, task.plan, group, b.input_stride, layout.x_pitch), false);
      planes_to_blocked(scratch + layout.y, g, layout.plane_shape(p, task.plan, group, b.grad_stride, layout.y_pitch),
                        false);
      const bool is_last = n + 1 == p.n;  // hardware prefetching handles the next group's planes
      PrefetchPair ahead(
          is_last ? Prefetch() : layout.prefetch(p, task.plan, group, x + b.input_stride[0], b.input_stride),
          is_last ? Prefetch() : layout.prefetch(p, task.plan, group, g + b.grad_stride[0], b.grad_stride),
          p.h * layout.blocks);
      layout.block.correlate(plane, ahead);
      if ((n + 1) % images_per_sum == 0) add_and_clear(scratch + layout.sum, scratch + layout.w, taps);
    }
    add_and_clear(scratch + layout.sum, scratch + layout.w, taps);
    T* weight = static_cast<T*>(b.output) + group * kLanes * k.full_h * k.full_w;
    if (k.kh < k.full_h || k.kw < k.full_w) {
      const int64_t count = layout.channels(p, group) * k.full_h * k.full_w;
      for (int64_t i = 0; i < count; ++i) weight[i] = T(0);
    }
    blocked_to_planes(static_cast<T*>(b.output) + layout.weight_offset(group), scratch + layout.sum,
                      layout.weight_shape(p, group));
    clear(scratch + layout.sum, taps);
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_BLOCKED_GRAD_WEIGHT_H_
