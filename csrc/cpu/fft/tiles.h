// The division of a plane into tiles (overlap-save), and the transform lengths.
//
// A tile of T results along an axis reads T + 2p inputs, p = K / 2, and needs a transform of L >= T + 2p. If one tile
// holds the whole axis of S elements, L >= S + p is enough, because the padding before the first element and after the
// last can be the same zeros. Taps further than S - 1 from the kernel's center only overlap padding and are left out.
#ifndef REPLK_CPU_FFT_TILES_H_
#define REPLK_CPU_FFT_TILES_H_

#include "common/task.h"
#include "cpu/common/geometry.h"
#include "cpu/fft/lengths.h"

namespace replk {
namespace REPLK_ISA {

// One axis of the tiling.
//
// Tile coordinate t is plane coordinate begin(index) - before() + t. The prepared kernel is rotated by 180 degrees with
// its taps at 0 .. 2p, so a result is p tile coordinates after its plane coordinate, and in the adjoint p before it
// (modulo L).
struct Axis {
  const Transform* length;
  int64_t size;     // of the plane
  int64_t cropped;  // taps left out at each end of the kernel
  int radius;       // p: half of the remaining kernel
  int tile;         // results per tile
  int64_t tiles;
  bool is_whole;  // one tile, whose two paddings are the same zeros

  int taps() const { return 2 * radius + 1; }
  int before() const { return is_whole ? 0 : radius; }
  int inputs() const { return is_whole ? tile : tile + 2 * radius; }
  int shift() const { return before() + radius; }
  int shift_adjoint() const { return before() - radius; }
  int64_t begin(int64_t index) const { return index * tile; }
  int results(int64_t index) const { return static_cast<int>(size - begin(index) < tile ? size - begin(index) : tile); }
};

inline int pairs_of(int columns) { return static_cast<int>(divide_up(columns, 2 * kLanes)); }

// Of several tiles, each but the last has a multiple of `granule` results.
inline bool make_axis(int64_t size, int64_t taps, const Transform& length, int granule, Axis& axis) {
  const int64_t half = taps / 2, radius = half < size - 1 ? half : size - 1;
  axis.length = &length;
  axis.size = size;
  axis.cropped = half - radius;
  axis.is_whole = length.length >= size + radius;
  if (!axis.is_whole && length.length < 2 * radius + 1) return false;
  axis.radius = static_cast<int>(radius);
  if (axis.is_whole) {
    axis.tile = static_cast<int>(size);
    axis.tiles = 1;
    return true;
  }
  const int most = length.length - 2 * axis.radius;
  axis.tiles = divide_up(size, most);
  const int64_t even = divide_up(size, axis.tiles);
  const int64_t rounded = round_up(even, granule);
  axis.tile = static_cast<int>(rounded <= most ? rounded : even);
  axis.tiles = divide_up(size, axis.tile);
  return true;
}

struct Tiling {
  Axis rows, columns;

  int64_t tiles() const { return rows.tiles * columns.tiles; }
  int pairs_in() const { return pairs_of(columns.inputs()); }
  int pairs_out() const { return pairs_of(columns.tile); }
  int pairs_taps() const { return pairs_of(columns.taps()); }
  int groups() const { return group_count(rows.length->length); }

  // Sizes of buffers, in floats.
  int64_t pitch() const {  // of one pair of Z
    return larger(int64_t{groups()} * kLanes, rows.length->length + 1) * kComplex;
  }
  int64_t z_floats() const { return pitch() * larger(pairs_in(), pairs_taps()); }
  int64_t wrapped_floats() const { return int64_t{columns.radius} * kComplex; }  // space in front of a row
  int64_t work_floats() const {                                                  // a group in natural order
    const int64_t loaded = larger(pairs_in(), pairs_taps()) * 2 * kLanes;
    return wrapped_floats() + larger(loaded, columns.length->length) * kComplex;
  }
  int64_t passed_floats() const { return int64_t{rows.length->length} * kComplex; }
  int64_t spectrum_floats() const { return int64_t{groups()} * columns.length->length * kComplex; }
  // Rows of a window are an odd number of cache lines apart, so that a column is not mapped to few cache sets.
  int64_t window_pitch() const { return larger(pairs_in(), pairs_taps()) * 2 * kLanes + 16; }
  int64_t window_floats() const { return window_pitch() * larger(rows.inputs(), rows.taps()); }

  // Counted vector operations (arithmetic, loads, stores, shuffles) of one plane, forward or grad input.
  double plane_operations() const {
    const int ends = pairs_in() + pairs_out();
    const double column_stage = ends * rows.length->cost;
    const double row_stage =
        groups() * (2 * columns.length->cost + 6 * columns.length->length + ends * transpose_operations());
    return static_cast<double>(tiles()) * (column_stage + row_stage);
  }
  // The same for one spectrum of a kernel, or of its gradient.
  double spectrum_operations() const {
    return pairs_taps() * rows.length->cost +
           groups() * (columns.length->cost + 2 * columns.length->length + pairs_taps() * transpose_operations());
  }

 private:
  static double transpose_operations() {
    return 4.0 * kLanes * 8;
  }  // four transposes of a pair: loads, shuffles, stores
};

inline const Transform* find_length(int64_t length) {
  for (const Transform& candidate : kLengths) {
    if (candidate.length == length) return &candidate;
  }
  return nullptr;
}

// The tiling of a plan.
inline bool make_tiling(const replk_problem& p, const Transform& rows, const Transform& columns, Tiling& tiling) {
  return make_axis(p.h, p.kh, rows, 1, tiling.rows) && make_axis(p.w, p.kw, columns, kLanes, tiling.columns);
}

inline bool choose_tiling(const replk_problem& p, Tiling& best) {
  bool is_found = false;
  for (const Transform& rows : kLengths) {
    for (const Transform& columns : kLengths) {
      Tiling candidate;
      if (!make_tiling(p, rows, columns, candidate)) continue;
      if (!is_found || candidate.plane_operations() < best.plane_operations()) best = candidate;
      is_found = true;
    }
  }
  return is_found;
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_TILES_H_
