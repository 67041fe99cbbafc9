// Forward and grad input in the channel-blocked layout: transpose, convolve (toeplitz.h), transpose back.
#ifndef REPLK_CPU_BLOCKED_CONVOLVE_H_
#define REPLK_CPU_BLOCKED_CONVOLVE_H_

#include "cpu/blocked/layout.h"
#include "cpu/common/copy.h"

namespace replk {
namespace REPLK_ISA {

// Items are the planes of a group of channels; all images of a group are consecutive and share its transposed weight.
template <class T>
static void convolve_groups(const Task& task, int64_t begin, int64_t end, float* scratch) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  const BlockedLayout layout(p);
  const T* weight = static_cast<const T*>(b.weight);
  const T* bias = static_cast<const T*>(b.bias);
  clear(scratch, layout.size);
  const BlockedPlane plane = {p.h,
                              layout.blocks,
                              layout.kernel.kh,
                              layout.kernel.kw,
                              scratch,
                              scratch + layout.y,
                              scratch + layout.w,
                              scratch + layout.sum,
                              scratch + layout.bias,
                              p.activation == REPLK_RELU};
  const auto input = [&](int64_t item) {
    return static_cast<const T*>(b.input) + item % p.n * b.input_stride[0] + item / p.n * kLanes * b.input_stride[1];
  };
  int64_t ready = -1;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item / p.n, n = item % p.n;
    if (group != ready) {
      planes_to_blocked(scratch + layout.w, weight + layout.weight_offset(group), layout.weight_shape(p, group),
                        p.pass == REPLK_GRAD_INPUT);
      if (bias) store(scratch + layout.bias, load_first(bias + group * kLanes, layout.channels(p, group)));
      ready = group;
    }
    T* y = static_cast<T*>(b.output) + n * b.output_stride[0] + group * kLanes * b.output_stride[1];
    planes_to_blocked(scratch, input(item), layout.plane_shape(p, group, b.input_stride), false);
    const int64_t next = item + 1 < end ? item + 1 : item;
    PrefetchPair ahead(layout.prefetch(p, next / p.n, input(next), b.input_stride),
                       layout.prefetch(p, group, y, b.output_stride), p.h);
    layout.block.convolve(plane, ahead);
    blocked_to_planes(y, scratch + layout.y, layout.plane_shape(p, group, b.output_stride));
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_BLOCKED_CONVOLVE_H_
