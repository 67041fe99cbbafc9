// Integer helpers, the part of the kernel that overlaps the plane, and the bands of the direct method.
#ifndef REPLK_CPU_COMMON_GEOMETRY_H_
#define REPLK_CPU_COMMON_GEOMETRY_H_

#include "common/task.h"
#include "cpu/common/prefetch.h"
#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {

constexpr int64_t kLine = 16;  // float32 in a cache line

static inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
static inline int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// The taps that overlap the plane: larger kernels are cropped to offsets smaller than the plane.
struct Kernel {
  int64_t kh, kw;  // cropped; odd
  int64_t full_h, full_w;
  int64_t crop_h, crop_w;  // index of the first remaining tap

  explicit Kernel(const replk_problem& p)
      : kh(smaller(p.kh, 2 * larger(p.h, 1) - 1)),
        kw(smaller(p.kw, 2 * larger(p.w, 1) - 1)),
        full_h(p.kh),
        full_w(p.kw),
        crop_h((p.kh - kh) / 2),
        crop_w((p.kw - kw) / 2) {}

  int64_t pad_h() const { return kh / 2; }
  int64_t pad_w() const { return kw / 2; }
};

// The bands of a plane, and the layout of a band's padded copy.
struct Bands {
  int64_t height, width;  // of a band; the last ones may be smaller
  int64_t down, across;   // number of bands
  int64_t margin;         // zeros left of column 0 in the copy, so that column 0 is aligned
  int64_t pitch;          // of the copy: an odd number of cache lines, against conflicts between rows
  int64_t rows;           // of the copy

  int64_t count() const { return down * across; }
  int64_t copy_size() const { return rows * pitch; }
};

// Bands of at most half of a small second-level cache (512 KB). The kernel's halo is copied again for every band, so
// bands are no smaller than necessary, except for problems with few planes, where threads can only share bands.
static inline Bands cut_into_bands(const replk_problem& p, const Kernel& k) {
  constexpr int64_t kMaxWidth = 1024, kMaxSize = 128 * 1024, kMinHeight = 16, kEnoughItems = 16;
  const int64_t h = larger(p.h, 1), w = larger(p.w, 1);
  Bands b;
  b.across = divide_up(w, kMaxWidth);
  b.width = b.across == 1 ? w : round_up(divide_up(w, b.across), kLine);
  b.across = divide_up(w, b.width);
  b.margin = round_up(k.pad_w(), kLine);
  b.pitch = round_up(b.margin + round_up(b.width, kLanes) + k.pad_w(), kLine);
  if (b.pitch / kLine % 2 == 0) b.pitch += kLine;
  const int64_t fitting = larger(kMaxSize / b.pitch - k.kh, kMinHeight);
  b.down = divide_up(h, fitting);
  const int64_t planes = larger(p.n * p.c * b.across, 1);
  if (planes * b.down < kEnoughItems) {
    b.down = larger(b.down, smaller(divide_up(kEnoughItems, planes), h / larger(kMinHeight, k.kh)));
  }
  b.height = divide_up(h, b.down);
  b.down = divide_up(h, b.height);
  b.rows = b.height + k.kh;  // one more than the taps need: folding an odd height reads it
  return b;
}

// One band of one plane: a work item, in memory order. (The weight is prepared again for every plane, which is little
// compared with the plane; iterating over images first is slower.)
struct PlaneBand {
  int64_t c, n, i0, j0, height, width;

  PlaneBand(int64_t item, const replk_problem& p, const Bands& b) {
    const int64_t band = item % b.count(), plane = item / b.count();
    c = plane % p.c;
    n = plane / p.c;
    i0 = band / b.across * b.height;
    j0 = band % b.across * b.width;
    height = smaller(b.height, p.h - i0);
    width = smaller(b.width, p.w - j0);
  }

  template <class T>
  Prefetch prefetch(bool wanted, const T* plane, int64_t row_stride) const {
    if (!wanted) return Prefetch();
    const int64_t size = sizeof(T);
    const T* first = plane + i0 * row_stride + j0;
    if (row_stride == width) return Prefetch(first, 1, height * width * size, 0);
    return Prefetch(first, height, width * size, row_stride * size);
  }
};

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_COMMON_GEOMETRY_H_
