// How a plane is cut into tiles (overlap-save), and which lengths of transform that takes.
//
// A tile of T results along an axis reads T + 2p inputs, p = K / 2, so a transform of L >= T + 2p serves it. Where one
// tile holds the whole axis of S elements, L >= S + p is enough: the padding before the first element and the one after
// the last are the same zeros. Taps further than S - 1 from the kernel's centre meet nothing but padding and are left out.
#ifndef REPLK_CPU_FFT_TILES_H_
#define REPLK_CPU_FFT_TILES_H_

#include "common/task.h"
#include "cpu/fft/lengths.h"

namespace replk {
namespace REPLK_ISA {

// One axis of the tiling.
struct Axis {
  const Length* length;
  int64_t size;      // of the plane
  int64_t cropped;   // taps left out at either end of the kernel
  int reach;         // p: half of what is left of it
  int tile;          // results per tile
  int64_t tiles;
  bool is_whole;     // one tile, with the two paddings shared

  int taps() const { return 2 * reach + 1; }
  int64_t begin(int64_t index) const { return index * tile; }
  int results(int64_t index) const { return static_cast<int>(size - begin(index) < tile ? size - begin(index) : tile); }
};

inline int blocks(int columns) { return (columns + kLanes - 1) / kLanes; }
inline int pairs(int columns) { return (blocks(columns) + 1) / 2; }

// `granule`: tiles are a multiple of it where there are several.
inline bool make_axis(int64_t size, int64_t taps, const Length& length, int granule, Axis& axis) {
  const int64_t half = taps / 2, reach = half < size - 1 ? half : size - 1;
  if (reach >= length.length) return false;
  axis.length = &length;
  axis.size = size;
  axis.cropped = half - reach;
  axis.reach = static_cast<int>(reach);
  axis.is_whole = length.length >= size + reach;
  if (axis.is_whole) {
    axis.tile = static_cast<int>(size);
    axis.tiles = 1;
    return true;
  }
  const int most = length.length - 2 * axis.reach;
  if (most < 1) return false;
  axis.tiles = (size + most - 1) / most;
  const int64_t even = (size + axis.tiles - 1) / axis.tiles;
  const int64_t rounded = (even + granule - 1) / granule * granule;
  axis.tile = static_cast<int>(rounded <= most ? rounded : even);
  axis.tiles = (size + axis.tile - 1) / axis.tile;
  return true;
}

struct Tiling {
  Axis rows, columns;

  int64_t tiles() const { return rows.tiles * columns.tiles; }
  int pairs_in() const {
    const int whole = pairs(static_cast<int>(columns.size) + columns.reach), part = pairs(columns.tile + 2 * columns.reach);
    return columns.is_whole ? whole : part;
  }
  int pairs_out() const { return pairs(columns.tile); }
  int pairs_taps() const { return pairs(columns.taps()); }
  int groups() const { return group_count(rows.length->length); }

  int64_t pitch() const {  // floats of one pair of Z
    const int rows_read = groups() * kLanes, rows_kept = rows.length->length + 1;
    return int64_t{rows_read > rows_kept ? rows_read : rows_kept} * kComplex;
  }
  int64_t z_floats() const {
    const int in = pairs_in(), taps = pairs_taps();
    return pitch() * (in > taps ? in : taps);
  }
  int64_t work_floats() const {
    const int64_t in = int64_t{pairs_in() > pairs_taps() ? pairs_in() : pairs_taps()} * 2 * kLanes;
    return (in > columns.length->length ? in : columns.length->length) * kComplex;
  }
  int64_t scratch_floats() const { return int64_t{rows.length->length} * kComplex; }
  int64_t spectrum_floats() const { return int64_t{groups()} * columns.length->length * kComplex; }

  // Vector operations per plane: the measure by which lengths are chosen.
  double cost() const {
    const double turn = 4.0 * kLanes * 8;  // four transposes of a pair: loads, shuffles, stores
    const double column_stage = (pairs_in() + pairs_out()) * rows.length->cost;
    const double row_stage = groups() * (2 * columns.length->cost + 6 * columns.length->length +
                                         (pairs_in() + pairs_out()) * turn);
    return static_cast<double>(tiles()) * (column_stage + row_stage);
  }
};

inline const Length* find_length(int64_t length) {
  for (const Length& candidate : kLengths) {
    if (candidate.length == length) return &candidate;
  }
  return nullptr;
}

// The tiling of a plan.
inline bool make_tiling(const replk_problem& p, const Length& rows, const Length& columns, Tiling& tiling) {
  return make_axis(p.h, p.kh, rows, 1, tiling.rows) && make_axis(p.w, p.kw, columns, kLanes, tiling.columns);
}

inline bool choose_tiling(const replk_problem& p, Tiling& best) {
  bool is_found = false;
  for (const Length& rows : kLengths) {
    for (const Length& columns : kLengths) {
      Tiling candidate;
      if (!make_tiling(p, rows, columns, candidate)) continue;
      if (!is_found || candidate.cost() < best.cost()) best = candidate;
      is_found = true;
    }
  }
  return is_found;
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_TILES_H_
