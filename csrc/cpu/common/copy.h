// The zero-padded float32 copy of a band, and the transposed weight.
//
//   copy[r][margin + j] = x[i0 - pad_h + r][j0 + j], zero outside the plane       -pad_w <= j < width + pad_w
//
// Any row stride and alignment of x; `copy` is 64-byte aligned and its pitch a multiple of 16 (geometry.h).
#ifndef REPLK_CPU_COMMON_COPY_H_
#define REPLK_CPU_COMMON_COPY_H_

#include "common/bfloat16.h"
#include "cpu/common/geometry.h"

namespace replk {
namespace REPLK_ISA {

static inline float to_float(float value) { return value; }
static inline float to_float(uint16_t value) { return bfloat16_to_float(value); }

template <class T>
static inline T from_float(float value) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return value;
  } else {
    return float_to_bfloat16(value);
  }
}

static inline void clear(float* p, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(p + i, zero());
  if (i < count) store_first(p + i, zero(), static_cast<int>(count - i));
}

// Elements between `count` and the next multiple of kLanes are set to zero.
template <class T>
static inline void copy_row(float* to, const T* from, int64_t count) {
  int64_t j = 0;
  for (; j + kLanes <= count; j += kLanes) store(to + j, load(from + j));
  if (j < count) store(to + j, load_first(from + j, static_cast<int>(count - j)));
}

// Copies rows [i0, i0 + height) and columns [j0, j0 + width) of a plane [H,W] with the kernel's halo. Columns of the
// copy that lie outside the plane are zero from the start and are cleared only if there are several bands across. Rows
// outside are cleared only if `clear_rows`.
template <class T>
static inline void copy_band(float* copy, const Bands& b, const Kernel& k, const T* x, int64_t x_row, int64_t h,
                             int64_t w, int64_t i0, int64_t height, int64_t j0, int64_t width, bool clear_rows) {
  const int64_t begin = larger(j0 - k.pad_w(), 0), end = smaller(j0 + width + k.pad_w(), w);
  for (int64_t r = 0; r < height + k.kh; ++r) {
    const int64_t i = i0 - k.pad_h() + r;
    float* row = copy + r * b.pitch;
    if (i < 0 || i >= h || r == height + k.kh - 1) {
      if (clear_rows) clear(row, b.pitch);
      continue;
    }
    float* to = row + b.margin + (begin - j0);
    if (b.across > 1) clear(row, b.pitch);
    copy_row(to, x + i * x_row + begin, end - begin);
  }
}

// Copies w[u][v], rotated by 180 degrees for the input gradient.
template <class T>
static inline void prepare_weight(float* to, const T* weight, const Kernel& k, bool rotated) {
  for (int64_t u = 0; u < k.kh; ++u) {
    for (int64_t v = 0; v < k.kw; ++v) {
      const int64_t from_u = k.crop_h + (rotated ? k.kh - 1 - u : u), from_v = k.crop_w + (rotated ? k.kw - 1 - v : v);
      to[u * k.kw + v] = to_float(weight[from_u * k.full_w + from_v]);
    }
  }
}

// Copies the transpose w[v][u], rotated by 180 degrees for the input gradient.
template <class T>
static inline void transpose_weight(float* to, const T* weight, const Kernel& k, bool rotated) {
  for (int64_t v = 0; v < k.kw; ++v) {
    for (int64_t u = 0; u < k.kh; ++u) {
      const int64_t from_u = k.crop_h + (rotated ? k.kh - 1 - u : u), from_v = k.crop_w + (rotated ? k.kw - 1 - v : v);
      to[v * k.kh + u] = to_float(weight[from_u * k.full_w + from_v]);
    }
  }
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_COMMON_COPY_H_
