// Copies between tensors and the channel-blocked layout: plane[c][i][j] or pixel[i][j][c] <-> blocked[i * pitch +
// j][c], where c counts kLanes neighboring channels (the nChw16c layout of oneDNN for 16 lanes). Channels-last tensors
// are copied vector by vector, planes are transposed.
//
// Square tiles of kLanes pixels by kLanes channels are transposed in registers. Contiguous rows are treated as one long
// row, so that tiles may cross row ends; a last tile overlaps the previous one instead of extending past the end.
// Missing channels are zeros in the blocked layout and are not written back. `blocked` is 64-byte aligned. Pixels of
// `blocked` between the end of a row and its pitch are neither written nor read.
#ifndef REPLK_CPU_BLOCKED_TRANSPOSE_H_
#define REPLK_CPU_BLOCKED_TRANSPOSE_H_

#include <cstdint>

#include "common/task.h"
#include "cpu/common/partial.h"
#include "cpu/common/unroll.h"
#include "cpu/simd/isa.h"

#if defined(__GNUC__)
#define REPLK_NOINLINE __attribute__((noinline))
#else
#define REPLK_NOINLINE
#endif

namespace replk {
namespace REPLK_ISA {

// The geometry of one group of channels.
struct PlaneShape {
  int64_t rows, columns;
  int64_t row_stride, channel_stride;  // in the tensor, in elements
  int64_t pitch;                       // in the blocked layout, in pixels
  int channels;                        // 1 to kLanes
  int64_t pixel_stride = 1;            // in the tensor; other than 1 only in channels-last ones

  bool is_dense() const { return row_stride == columns; }
};

// The geometry of a group of `channels` channels of the planned input or output.
static inline PlaneShape group_shape(const replk_problem& p, const replk_plan& plan, const int64_t* stride,
                                     int64_t pitch, int channels) {
  if (plan.channels_last) return {p.h, p.w, stride[2], 1, pitch, channels, stride[1]};
  return {p.h, p.w, stride[2], stride[1], pitch, channels};
}

// Offsets of the pixels of consecutive tiles in the blocked layout.
class BlockedPixels {
 public:
  BlockedPixels(int64_t columns, int64_t pitch) : columns_(columns), gap_(pitch - columns) {}
  // Offset of pixel `index`, counted over all rows. From call to call, `index` may decrease by at most one tile.
  int64_t offset(int64_t index) {
    if (gap_ == 0) return index * kLanes;
    while (index >= row_end_) {
      row_end_ += columns_;
      shift_ += gap_;
    }
    while (index < row_end_ - columns_) {
      row_end_ -= columns_;
      shift_ -= gap_;
    }
    return (index + shift_) * kLanes;
  }

 private:
  int64_t columns_, gap_;
  int64_t row_end_ = columns_, shift_ = 0;
};

// Loads and transposes a tile; an instruction set may define a faster overload for float32.
template <class T>
static REPLK_INLINE void load_transposed(Vec (&tile)[kLanes], const T* plane, int64_t stride) {
  REPLK_UNROLL
  for (int c = 0; c < kLanes; ++c) tile[c] = load(plane + c * stride);
  transpose(tile);
}

template <class T>
static REPLK_INLINE void load_tile(Vec (&tile)[kLanes], const T* plane, const PlaneShape& s, int count) {
  if (s.channels == kLanes && count == kLanes) {
    load_transposed(tile, plane, s.channel_stride);
    return;
  }
  alignas(64) float rows[kLanes][kLanes];
  for (int c = 0; c < kLanes; ++c) {
    store(rows[c], c < s.channels ? load_first(plane + c * s.channel_stride, count) : zero());
  }
  load_transposed(tile, rows[0], kLanes);
}

template <class T>
static REPLK_INLINE void store_tile(Vec (&tile)[kLanes], T* plane, const PlaneShape& s, int count) {
  transpose(tile);
  if (s.channels == kLanes && count == kLanes) {
    REPLK_UNROLL
    for (int c = 0; c < kLanes; ++c) store(plane + c * s.channel_stride, tile[c]);
    return;
  }
  alignas(64) float rows[kLanes][kLanes];
  REPLK_UNROLL
  for (int c = 0; c < kLanes; ++c) store(rows[c], tile[c]);
  for (int c = 0; c < s.channels; ++c) store_first(plane + c * s.channel_stride, load(rows[c]), count);
}

// Iterates over the tiles that cover a plane.
class Tiles {
 public:
  explicit Tiles(const PlaneShape& s)
      : row_stride_(s.row_stride),
        runs_(s.is_dense() ? 1 : s.rows),
        length_(s.is_dense() ? s.rows * s.columns : s.columns) {}

  bool is_done() const { return run_ >= runs_ || length_ == 0; }
  void next() {
    at_ += kLanes;
    if (at_ < length_) return;
    at_ = 0;
    ++run_;
  }

  // The first pixel of the tile: its offset in the plane, and its index.
  int64_t element() const { return run_ * row_stride_ + first(); }
  int64_t pixel() const { return run_ * length_ + first(); }
  int pixels() const { return static_cast<int>(length_ < kLanes ? length_ : kLanes); }

 private:
  int64_t first() const { return at_ + kLanes <= length_ || length_ < kLanes ? at_ : length_ - kLanes; }

  int64_t row_stride_, runs_, length_;  // runs of pixels without gaps
  int64_t run_ = 0, at_ = 0;
};

// `rotated`: by 180 degrees, which needs pitch = columns.
template <class T>
static REPLK_NOINLINE void planes_to_blocked(float* blocked, const T* planes, const PlaneShape& s, bool rotated) {
  BlockedPixels pixels(s.columns, s.pitch);
  const int64_t last = s.rows * s.columns - 1, step = rotated ? -kLanes : kLanes;
  for (Tiles at(s); !at.is_done(); at.next()) {
    const int count = at.pixels();
    const int64_t pixel = at.pixel();
    Vec tile[kLanes];
    load_tile(tile, planes + at.element(), s, count);
    if (s.pitch == s.columns && count == kLanes) {
      float* to = blocked + (rotated ? last - pixel : pixel) * kLanes;
      REPLK_UNROLL
      for (int k = 0; k < kLanes; ++k) store(to + k * step, tile[k]);
      continue;
    }
    if (s.columns >= kLanes && count == kLanes) {  // the tile crosses at most one end of a row
      const int64_t left = s.columns - pixel % s.columns, gap = (s.pitch - s.columns) * kLanes;
      float* to = blocked + pixels.offset(pixel);
      REPLK_UNROLL
      for (int k = 0; k < kLanes; ++k) store(to + k * kLanes + (k < left ? 0 : gap), tile[k]);
      continue;
    }
    alignas(64) float rows[kLanes][kLanes];
    REPLK_UNROLL
    for (int k = 0; k < kLanes; ++k) store(rows[k], tile[k]);
    for (int k = 0; k < count; ++k) {
      const int64_t offset = rotated ? (last - pixel - k) * kLanes : pixels.offset(pixel + k);
      store(blocked + offset, load(rows[k]));
    }
  }
}

template <class T>
static REPLK_NOINLINE void blocked_to_planes(T* planes, const float* blocked, const PlaneShape& s) {
  BlockedPixels pixels(s.columns, s.pitch);
  for (Tiles at(s); !at.is_done(); at.next()) {
    const int count = at.pixels();
    const float* from = blocked + at.pixel() * kLanes;
    alignas(64) float rows[kLanes][kLanes];
    if (s.pitch != s.columns || count < kLanes) {
      for (int k = 0; k < kLanes; ++k) {
        store(rows[k], k < count ? load(blocked + pixels.offset(at.pixel() + k)) : zero());
      }
      from = rows[0];
    }
    Vec tile[kLanes];
    REPLK_UNROLL
    for (int k = 0; k < kLanes; ++k) tile[k] = load(from + k * kLanes);
    store_tile(tile, planes + at.element(), s, count);
  }
}

template <class T>
static void pixels_to_blocked(float* blocked, const T* pixels, const PlaneShape& s) {
  for (int64_t i = 0; i < s.rows; ++i) {
    const T* from = pixels + i * s.row_stride;
    float* to = blocked + i * s.pitch * kLanes;
    for (int64_t j = 0; j < s.columns; ++j, from += s.pixel_stride, to += kLanes) {
      store(to, load_up_to(from, s.channels));
    }
  }
}

template <class T>
static void blocked_to_pixels(T* pixels, const float* blocked, const PlaneShape& s) {
  for (int64_t i = 0; i < s.rows; ++i) {
    const float* from = blocked + i * s.pitch * kLanes;
    T* to = pixels + i * s.row_stride;
    for (int64_t j = 0; j < s.columns; ++j, from += kLanes, to += s.pixel_stride) {
      store_up_to(to, load(from), s.channels);
    }
  }
}

template <class T>
static void group_to_blocked(const replk_plan& plan, float* blocked, const T* group, const PlaneShape& s) {
  if (plan.channels_last) return pixels_to_blocked(blocked, group, s);
  planes_to_blocked(blocked, group, s, false);
}

template <class T>
static void blocked_to_group(const replk_plan& plan, T* group, const float* blocked, const PlaneShape& s) {
  if (plan.channels_last) return blocked_to_pixels(group, blocked, s);
  blocked_to_planes(group, blocked, s);
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_BLOCKED_TRANSPOSE_H_
