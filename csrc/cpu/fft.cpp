// Overlap-save FFT convolution, tile by tile: forward, grad input and grad weight. csrc/README.md shows the data flow.
// Any alignment; inputs and outputs must not overlap. Work items are tiles with the channel as the slowest index, so
// that the spectrum of a channel is computed once if it was not prepared.
//
// A value that is not finite makes its whole tile not finite, and no other plane.
#include <cstring>

#include "common/bfloat16.h"
#include "common/task.h"
#include "cpu/fft/tiles.h"

namespace replk {
namespace REPLK_ISA {
namespace {

constexpr int64_t kAlignment = 64;
// Outputs of 4 MB and more are evicted from the second-level cache before they are read: non-temporal stores avoid
// loading their cache lines. Measured: (1,512,64,64) with K = 27 took 8.5 instead of 10.2 microseconds per plane.
constexpr int64_t kStreamedElements = int64_t{1} << 20;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Larger spectra are not prepared: loading them from memory takes as long as computing them. Measured on 2 cores:
// (1,512,64,64) with K = 27, 16 MB: 4.4 ms prepared and 3.8 ms not; (1,80,56,56) with K = 51, 3 MB: 0.45 and 0.67 ms.
constexpr int64_t kMostPackedBytes = int64_t{8} << 20;

bool tiling_of(const replk_problem& p, const replk_plan& plan, Tiling& tiling) {
  const Transform* rows = find_length(plan.tile_h);
  const Transform* columns = find_length(plan.tile_w);
  return rows && columns && make_tiling(p, *rows, *columns, tiling);
}

// A prepared channel: a copy of its weight, then its spectrum.
int64_t weight_bytes(const replk_problem& p) { return p.kh * p.kw * (p.dtype == REPLK_F32 ? 4 : 2); }
int64_t packed_bytes(const replk_problem& p, const Tiling& t) {
  return aligned(weight_bytes(p)) + aligned(t.spectrum_floats() * 4);
}

// The scratch memory of one thread at `scratch`; `bytes` is its size.
struct Memory {
  float *work, *passed, *window, *z, *spectrum, *work_grad, *z_grad;
  int64_t bytes;

  Memory(const replk_problem& p, const Tiling& t, char* scratch) {
    const bool is_weight_gradient = p.pass == REPLK_GRAD_WEIGHT;
    bytes = 0;
    const auto take = [&](int64_t floats, int64_t before) {
      float* taken = scratch ? reinterpret_cast<float*>(scratch + bytes) + before : nullptr;
      bytes += aligned(floats * 4);
      return taken;
    };
    work = take(t.work_floats(), t.wrapped_floats());
    passed = take(t.passed_floats(), 0);
    window = take(t.window_floats(), 0);
    z = take(t.z_floats(), 0);
    spectrum = take(t.spectrum_floats(), 0);
    work_grad = is_weight_gradient ? take(t.work_floats(), t.wrapped_floats()) : nullptr;
    z_grad = is_weight_gradient ? take(t.z_floats(), 0) : nullptr;
  }
};

bool plan_fft(const replk_problem& p, replk_plan& plan) {
  Tiling tiling;
  if (p.h < 1 || p.w < 1 || !choose_tiling(p, tiling)) return false;
  plan.tile_h = tiling.rows.length->length;
  plan.tile_w = tiling.columns.length->length;
  const int64_t bytes = p.c * packed_bytes(p, tiling);
  plan.packed_bytes = p.pass == REPLK_GRAD_WEIGHT || bytes > kMostPackedBytes ? 0 : bytes;
  return true;
}

double operations(const replk_problem& p, const replk_plan& plan) {
  Tiling t;
  if (!tiling_of(p, plan, t)) return 0;
  const double planes = static_cast<double>(p.n * p.c) * t.plane_operations();
  // The weight gradient transforms as many columns, accumulates in memory, and has one inverse transform per channel.
  if (p.pass == REPLK_GRAD_WEIGHT) return 1.2 * planes + static_cast<double>(p.c) * t.spectrum_operations();
  return planes + (p.prepared && plan.packed_bytes > 0 ? 0.0 : static_cast<double>(p.c) * t.spectrum_operations());
}

int64_t scratch_bytes(const replk_problem& p, const replk_plan& plan) {
  Tiling t;
  return tiling_of(p, plan, t) ? Memory(p, t, nullptr).bytes : 0;
}

int64_t items(const replk_problem& p, const replk_plan& plan) {
  Tiling t;
  if (!tiling_of(p, plan, t)) return 0;
  return p.pass == REPLK_GRAD_WEIGHT ? p.c : p.c * p.n * t.tiles();
}

float element(const void* base, int64_t index, int32_t dtype) {
  return dtype == REPLK_F32 ? static_cast<const float*>(base)[index]
                            : bfloat16_to_float(static_cast<const uint16_t*>(base)[index]);
}

// One tile of one plane.
struct Tile {
  int64_t n, c;
  int64_t row, column;  // of the first result
  int rows, columns;    // number of results

  Tile(const replk_problem& p, const Tiling& t, int64_t item) {
    const int64_t tiles = t.tiles(), index = item % tiles;
    n = item / tiles % p.n;
    c = item / tiles / p.n;
    row = t.rows.begin(index / t.columns.tiles);
    column = t.columns.begin(index % t.columns.tiles);
    rows = t.rows.results(index / t.columns.tiles);
    columns = t.columns.results(index % t.columns.tiles);
  }

  int64_t offset(const int64_t (&stride)[3]) const { return n * stride[0] + c * stride[1]; }
};

int clipped(int64_t value, int most) { return static_cast<int>(value < 0 ? 0 : value > most ? most : value); }

template <class T>
void copy_row(const T* from, float* to, int begin, int end, int width) {
  for (int column = 0; column < begin; ++column) to[column] = 0;
  int column = begin;
  for (; column + kLanes <= end; column += kLanes) store(to + column, load(from + column));
  if (column < end) store_first(to + column, load_first(from + column, end - column), end - column);
  for (int column = end; column < width; ++column) to[column] = 0;
}

// Copies the input of a tile: `rows` x `columns` elements from plane element (row, column), which may lie outside the
// plane, to tile coordinate 0.
Window copy_window(const replk_problem& p, const Tiling& t, const void* plane, int64_t offset, int64_t stride,
                   int64_t row, int64_t column, int rows, int columns, const Memory& memory) {
  const Window window = {memory.window, t.window_pitch(), clipped(-row, rows), clipped(p.h - row, rows)};
  const int begin = clipped(-column, columns), end = clipped(p.w - column, columns);
  const int width = pairs_of(columns) * 2 * kLanes;
  for (int i = window.begin; i < window.end; ++i) {
    const int64_t first = offset + (row + i) * stride + column;
    float* to = memory.window + i * window.pitch;
    if (p.dtype == REPLK_F32) {
      copy_row(static_cast<const float*>(plane) + first, to, begin, end, width);
    } else {
      copy_row(static_cast<const uint16_t*>(plane) + first, to, begin, end, width);
    }
  }
  return window;
}

void transform_columns(const Tiling& t, const Window& window, int pairs, const Memory& memory, float* z) {
  for (int pair = 0; pair < pairs; ++pair) {
    transform_columns(*t.rows.length, window, pair * 2 * kLanes, memory.passed, z + pair * t.pitch());
  }
}

// Copies the input of a tile and transforms its columns.
void transform_input(const replk_problem& p, const replk_buffers& b, const Tiling& t, const Tile& tile,
                     const Memory& memory) {
  const Window window =
      copy_window(p, t, b.input, tile.offset(b.input_stride), b.input_stride[2], tile.row - t.rows.before(),
                  tile.column - t.columns.before(), t.rows.inputs(), t.columns.inputs(), memory);
  transform_columns(t, window, t.pairs_in(), memory, memory.z);
}

// Inverse transforms of the columns of `target` from memory.z; bfloat16 is converted through `memory.window`.
void inverse_columns(const replk_problem& p, const Tiling& t, Target target, void* base, int64_t offset, int64_t stride,
                     const Memory& memory) {
  target.plane = p.dtype == REPLK_F32 ? static_cast<float*>(base) + offset : memory.window;
  target.row_stride = p.dtype == REPLK_F32 ? stride : target.columns;
  const bool is_aligned = reinterpret_cast<uintptr_t>(target.plane) % kAlignment == 0 && stride % kLanes == 0;
  target.streams = target.streams && p.dtype == REPLK_F32 && is_aligned;
  for (int column = 0; column < target.columns; column += 2 * kLanes) {
    inverse_columns(*t.rows.length, memory.z + column / (2 * kLanes) * t.pitch(), column, memory.passed, target);
  }
  if (p.dtype == REPLK_F32) return;
  uint16_t* plane = static_cast<uint16_t*>(base) + offset;
  for (int row = 0; row < target.rows; ++row) {
    const float* from = target.plane + row * target.row_stride;
    uint16_t* to = plane + row * stride;
    int column = 0;
    for (; column + kLanes <= target.columns; column += kLanes) store(to + column, load(from + column));
    for (; column < target.columns; ++column) to[column] = float_to_bfloat16(from[column]);
  }
}

// Transforms are unnormalized, and separating a pair of columns doubles each of the two factors of a product.
float product_scale(const Tiling& t) {
  return static_cast<float>(0.25 / (static_cast<double>(t.rows.length->length) * t.columns.length->length));
}

// The spectrum of one channel's kernel, rotated by 180 degrees.
void make_spectrum(const replk_problem& p, const Tiling& t, const void* weight, int64_t c, const Memory& memory,
                   float* spectrum) {
  const int rows = t.rows.taps(), columns = t.columns.taps();
  const Window window = {memory.window, t.window_pitch(), 0, rows};
  std::memset(memory.window, 0, static_cast<size_t>(rows * window.pitch) * sizeof(float));
  for (int u = 0; u < rows; ++u) {
    const int64_t first = (c * p.kh + t.rows.cropped + u) * p.kw + t.columns.cropped;
    float* rotated = memory.window + (rows - 1 - u) * window.pitch + (columns - 1);
    for (int v = 0; v < columns; ++v) rotated[-v] = element(weight, first + v, p.dtype);
  }
  transform_columns(t, window, t.pairs_taps(), memory, memory.z);
  const RowGeometry geometry = {t.rows.length->length, t.pairs_taps(), 0, 0, 0, t.pitch()};
  rows_spectrum(*t.columns.length, memory.z, geometry, product_scale(t), spectrum, memory.work);
}

RowPrefetch prefetch_of(const replk_problem& p, const Tiling& t, const Tile& tile, const void* base,
                        const int64_t (&stride)[3]) {
  const int64_t bytes = p.dtype == REPLK_F32 ? 4 : 2;
  const int64_t first = tile.offset(stride) + tile.row * stride[2] + tile.column;
  return {static_cast<const char*>(base) + first * bytes, stride[2] * bytes, tile.rows,
          tile.columns * static_cast<int>(bytes), rows_convolve_steps(*t.columns.length, t.rows.length->length)};
}

void convolve(const Task& task, int64_t begin, int64_t end, void* scratch) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  Tiling t;
  if (!tiling_of(p, task.plan, t)) return;
  const Memory memory(p, t, static_cast<char*>(scratch));
  const bool is_adjoint = p.pass == REPLK_GRAD_INPUT;
  RowGeometry geometry = {t.rows.length->length, t.pairs_in(), 0, 0, 0, t.pitch()};
  geometry.first_column = is_adjoint ? t.columns.shift_adjoint() : t.columns.shift();
  Target target = {};
  target.first_row = is_adjoint ? t.rows.shift_adjoint() : t.rows.shift();
  target.relu = p.activation == REPLK_RELU;
  target.streams = p.n * p.c * p.h * p.w >= kStreamedElements;

  int64_t channel = -1;
  const float* spectrum = nullptr;
  for (int64_t item = begin; item < end; ++item) {
    const Tile tile(p, t, item), next(p, t, item + 1 < end ? item + 1 : item);
    if (tile.c != channel) {
      channel = tile.c;
      const char* weight = static_cast<const char*>(b.weight) + channel * weight_bytes(p);
      const char* packed = task.packed ? task.packed + channel * packed_bytes(p, t) : nullptr;
      if (packed && std::memcmp(packed, weight, static_cast<size_t>(weight_bytes(p))) == 0) {
        spectrum = reinterpret_cast<const float*>(packed + aligned(weight_bytes(p)));
      } else {
        if (packed) task.stale.store(1, std::memory_order_relaxed);
        make_spectrum(p, t, b.weight, channel, memory, memory.spectrum);
        spectrum = memory.spectrum;
      }
      target.bias = b.bias ? element(b.bias, channel, p.dtype) : 0.0f;
    }
    transform_input(p, b, t, tile, memory);
    geometry.columns = target.columns = tile.columns;
    geometry.pairs_out = pairs_of(tile.columns);
    target.rows = tile.rows;
    RowPrefetch prefetch = prefetch_of(p, t, next, b.input, b.input_stride);
    rows_convolve(*t.columns.length, memory.z, geometry, spectrum, is_adjoint, memory.work, prefetch);
    const int64_t offset = tile.offset(b.output_stride) + tile.row * b.output_stride[2] + tile.column;
    inverse_columns(p, t, target, b.output, offset, b.output_stride[2], memory);
  }
  stream_fence();
}

void correlate(const Task& task, int64_t begin, int64_t end, void* scratch) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  Tiling t;
  if (!tiling_of(p, task.plan, t)) return;
  const Memory memory(p, t, static_cast<char*>(scratch));
  const int length1 = t.rows.length->length;
  const RowGeometry geometry = {length1, t.pairs_in(), 0, 0, 0, t.pitch()};
  const RowGeometry geometry_taps = {length1,          0,        t.pairs_taps(), t.columns.shift_adjoint(),
                                     t.columns.taps(), t.pitch()};
  const float scale = product_scale(t);
  for (int64_t c = begin; c < end; ++c) {
    float* sum = memory.spectrum;
    std::memset(sum, 0, static_cast<size_t>(t.spectrum_floats()) * sizeof(float));
    for (int64_t item = c * p.n * t.tiles(); item < (c + 1) * p.n * t.tiles(); ++item) {
      const Tile tile(p, t, item);
      transform_input(p, b, t, tile, memory);
      // The gradient of the tile's results, at tile coordinate 0: a lag of u - p + before() belongs to tap u.
      const Window grad = copy_window(p, t, b.grad, tile.offset(b.grad_stride), b.grad_stride[2], tile.row, tile.column,
                                      tile.rows, tile.columns, memory);
      const RowGeometry geometry_grad = {length1, pairs_of(tile.columns), 0, 0, 0, t.pitch()};
      transform_columns(t, grad, geometry_grad.pairs_in, memory, memory.z_grad);
      rows_correlate(*t.columns.length, memory.z, geometry, memory.z_grad, geometry_grad, sum, memory.work,
                     memory.work_grad);
    }
    rows_inverse(*t.columns.length, sum, scale, geometry_taps, memory.z, memory.work);
    const int64_t bytes = weight_bytes(p);
    std::memset(static_cast<char*>(b.output) + c * bytes, 0, static_cast<size_t>(bytes));
    Target target = {};
    target.first_row = t.rows.shift_adjoint();
    target.rows = t.rows.taps();
    target.columns = t.columns.taps();
    const int64_t offset = (c * p.kh + t.rows.cropped) * p.kw + t.columns.cropped;
    inverse_columns(p, t, target, b.output, offset, p.kw, memory);
  }
}

void pack(const replk_problem& p, const replk_plan& plan, const void* weight, char* packed, int64_t begin, int64_t end,
          void* scratch) {
  Tiling t;
  if (!tiling_of(p, plan, t)) return;
  const Memory memory(p, t, static_cast<char*>(scratch));
  for (int64_t c = begin; c < end; ++c) {
    char* place = packed + c * packed_bytes(p, t);
    const int64_t bytes = weight_bytes(p);
    std::memcpy(place, static_cast<const char*>(weight) + c * bytes, static_cast<size_t>(bytes));
    make_spectrum(p, t, weight, c, memory, reinterpret_cast<float*>(place + aligned(bytes)));
  }
}

}  // namespace

const Method fft_methods[3] = {
    {plan_fft, scratch_bytes, items, convolve, pack, operations},
    {plan_fft, scratch_bytes, items, convolve, pack, operations},
    {plan_fft, scratch_bytes, items, correlate, nullptr, operations},
};

}  // namespace REPLK_ISA
}  // namespace replk
