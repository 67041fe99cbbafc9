// Forward and grad input in the channel-blocked layout: copy, convolve (toeplitz.h, windows.h), copy back.
#ifndef REPLK_CPU_BLOCKED_CONVOLVE_H_
#define REPLK_CPU_BLOCKED_CONVOLVE_H_

#include "cpu/blocked/layout.h"
#include "cpu/common/copy.h"

namespace replk {
namespace REPLK_ISA {

// Items are bands of the planes of a group of channels; all images of a group are consecutive and share its transposed
// weight.
template <class T>
static void convolve_groups(const Task& task, int64_t begin, int64_t end, float* scratch) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  const BlockedLayout layout(p, task.plan);
  const Kernel& k = layout.kernel;
  const T* weight = static_cast<const T*>(b.weight);
  const T* bias = static_cast<const T*>(b.bias);
  clear(scratch, layout.size);
  BlockedPlane plane = {p.h,
                        layout.blocks,
                        k.kh,
                        k.kw,
                        0,
                        0,
                        p.h,
                        scratch,
                        scratch + layout.y,
                        scratch + layout.w,
                        scratch + layout.sum,
                        scratch + layout.bias,
                        p.activation == REPLK_RELU};
  const auto group_of = [&](int64_t item) { return item / (p.n * layout.bands); };
  const auto image_of = [&](int64_t item) { return item / layout.bands % p.n; };
  const auto input = [&](int64_t item) {
    return static_cast<const T*>(b.input) + image_of(item) * b.input_stride[0] +
           group_of(item) * kLanes * (task.plan.channels_last ? 1 : b.input_stride[1]);
  };
  int64_t ready = -1;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = group_of(item);
    if (group != ready) {
      planes_to_blocked(scratch + layout.w, weight + layout.weight_offset(group), layout.weight_shape(p, group),
                        p.pass == REPLK_GRAD_INPUT);
      if (bias) store(scratch + layout.bias, load_first(bias + group * kLanes, layout.channels(p, group)));
      ready = group;
    }
    PlaneShape from = layout.plane_shape(p, task.plan, group, b.input_stride, layout.x_pitch);
    PlaneShape to = layout.plane_shape(p, task.plan, group, b.output_stride, layout.y_pitch);
    T* y = static_cast<T*>(b.output) + image_of(item) * b.output_stride[0] + group * kLanes * to.channel_stride;
    plane.begin = item % layout.bands * layout.height;
    plane.end = smaller(plane.begin + layout.height, p.h);
    plane.x_row = layout.first_row(item);
    from.rows = smaller(plane.end + k.pad_h(), p.h) - plane.x_row;
    to.rows = plane.end - plane.begin;
    group_to_blocked(task.plan, scratch + layout.x, input(item) + plane.x_row * from.row_stride, from);
    const int64_t next = item + 1 < end ? item + 1 : item;
    PrefetchPair ahead(layout.prefetch(p, task.plan, group_of(next), input(next), b.input_stride),
                       layout.prefetch(p, task.plan, group, y, b.output_stride), to.rows * layout.blocks);
    y += plane.begin * to.row_stride;
    plane.next = reinterpret_cast<const char*>(input(next) + layout.first_row(next) * from.row_stride);
    plane.next_pixel = task.plan.channels_last ? from.pixel_stride * int64_t{sizeof(T)} : 0;
    bool in_place = false;
    if constexpr (sizeof(T) == sizeof(float)) {
      in_place = task.plan.channels_last && to.channels == kLanes;  // whole vectors
      plane.y = in_place ? y : scratch + layout.y;
    }
    plane.y_row = in_place ? to.row_stride : layout.y_pitch * kLanes;
    plane.y_pixel = in_place ? to.pixel_stride : kLanes;
    plane.columns = in_place ? p.w : layout.y_pitch;
    layout.block.convolve(plane, ahead);
    if (!in_place) blocked_to_group(task.plan, y, scratch + layout.y, to);
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_BLOCKED_CONVOLVE_H_
