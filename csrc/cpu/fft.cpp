// Depthwise convolution by products of spectra, tile by tile: forward, gradient of the input, gradient of the weight.
// csrc/README.md draws the way of the data. Any alignment; inputs and outputs must not overlap. Work items are tiles,
// the channel being the slowest index, so that a channel's spectrum is made once where none was prepared.
//
// A value that is not finite makes the whole tile of its plane that it falls in not finite, and no other plane.
#include <cstring>

#include "common/bfloat16.h"
#include "common/task.h"
#include "cpu/fft/tiles.h"

namespace replk {
namespace REPLK_ISA {
namespace {

constexpr int64_t kAlignment = 64;

int64_t aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int64_t element_bytes(const replk_problem& p) { return p.dtype == REPLK_F32 ? 4 : 2; }

bool tiling_of(const replk_problem& p, const replk_plan& plan, Tiling& tiling) {
  const Length* rows = find_length(plan.tile_h);
  const Length* columns = find_length(plan.tile_w);
  return rows && columns && make_tiling(p, *rows, *columns, tiling);
}

// A prepared channel: the weight it was made from, then its spectrum.
int64_t copy_bytes(const replk_problem& p) { return aligned(p.kh * p.kw * element_bytes(p)); }
int64_t packed_channel_bytes(const replk_problem& p, const Tiling& t) {
  return copy_bytes(p) + aligned(t.spectrum_floats() * 4);
}

// The scratch memory of one thread.
struct Memory {
  float *z, *z_grad, *work, *work_grad, *columns, *spectrum;

  Memory(const Tiling& t, void* scratch) {
    float* next = static_cast<float*>(scratch);
    const auto take = [&](int64_t floats) {
      float* taken = next;
      next += aligned(floats * 4) / 4;
      return taken;
    };
    work = take(t.work_floats());
    columns = take(t.scratch_floats());
    z = take(t.z_floats());
    spectrum = take(t.spectrum_floats());
    work_grad = take(t.work_floats());
    z_grad = take(t.z_floats());
  }
};

bool plan_fft(const replk_problem& p, replk_plan& plan) {
  if (p.h < 1 || p.w < 1) return false;
  Tiling tiling;
  if (!choose_tiling(p, tiling)) return false;
  plan.tile_h = tiling.rows.length->length;
  plan.tile_w = tiling.columns.length->length;
  plan.packed_bytes = p.pass == REPLK_GRAD_WEIGHT ? 0 : p.c * packed_channel_bytes(p, tiling);
  return true;
}

int64_t scratch_bytes(const replk_problem& p, const replk_plan& plan) {
  Tiling t;
  if (!tiling_of(p, plan, t)) return 0;
  const int copies = p.pass == REPLK_GRAD_WEIGHT ? 2 : 1;
  return copies * (aligned(t.z_floats() * 4) + aligned(t.work_floats() * 4)) + aligned(t.scratch_floats() * 4) +
         aligned(t.spectrum_floats() * 4);
}

int64_t items(const replk_problem& p, const replk_plan& plan) {
  Tiling t;
  if (!tiling_of(p, plan, t)) return 0;
  return p.pass == REPLK_GRAD_WEIGHT ? p.c : p.c * p.n * t.tiles();
}

int clipped(int64_t value, int most) { return static_cast<int>(value < 0 ? 0 : value > most ? most : value); }

// The window of a plane whose tile coordinate 0 is plane coordinate `row_offset`, `column_offset`.
template <class T>
Source<T> window(const T* plane, int64_t row_stride, const Tiling& t, int64_t row_offset, int64_t column_offset) {
  Source<T> source;
  source.plane = plane;
  source.row_stride = row_stride;
  source.row_offset = row_offset;
  source.column_offset = column_offset;
  source.row_begin = clipped(-row_offset, t.rows.length->length);
  source.row_end = clipped(t.rows.size - row_offset, t.rows.length->length);
  source.column_begin = clipped(-column_offset, t.columns.length->length);
  source.column_end = clipped(t.columns.size - column_offset, t.columns.length->length);
  return source;
}

template <class T>
void forward_columns(const Tiling& t, const Source<T>& source, int pairs, const Memory& memory, float* z) {
  const ColumnFunctions<T>& functions = t.rows.length->columns(static_cast<const T*>(nullptr));
  for (int pair = 0; pair < pairs; ++pair) {
    const int column = pair * 2 * kLanes;
    const bool is_inside = source.column_begin <= column && column + 2 * kLanes <= source.column_end;
    (is_inside ? functions.forward_inside : functions.forward)(source, column, z + pair * t.pitch(), memory.columns);
  }
}

template <class T>
void inverse_columns(const Tiling& t, const Target<T>& target, const Memory& memory, const float* z) {
  const ColumnFunctions<T>& functions = t.rows.length->columns(static_cast<const T*>(nullptr));
  for (int column = 0; column < target.columns; column += 2 * kLanes) {
    const bool is_whole = column + 2 * kLanes <= target.columns;
    const float* pair = z + column / (2 * kLanes) * t.pitch();
    (is_whole ? functions.inverse_whole : functions.inverse)(pair, column, target, memory.columns);
  }
}

template <class T>
void make_spectrum(const replk_problem& p, const Tiling& t, const T* weight, const Memory& memory, float* spectrum) {
  Source<T> source;
  source.plane = weight + t.rows.cropped * p.kw + t.columns.cropped;
  source.row_stride = p.kw;
  source.row_offset = source.column_offset = 0;
  source.row_begin = source.column_begin = 0;
  source.row_end = t.rows.taps();
  source.column_end = t.columns.taps();
  forward_columns(t, source, t.pairs_taps(), memory, memory.z);
  const int length1 = t.rows.length->length, length2 = t.columns.length->length;
  const RowGeometry geometry = {length1, t.pairs_taps(), 0, 0, 0, t.pitch()};
  // The transforms are not divided by their lengths, and each of the two factors comes doubled out of its pair.
  const float scale = static_cast<float>(0.25 / (static_cast<double>(length1) * length2));
  t.columns.length->rows.spectrum(memory.z, geometry, scale, spectrum, memory.work);
}

template <class T>
void convolve(const Task& task, int64_t begin, int64_t end, void* scratch) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  Tiling t;
  if (!tiling_of(p, task.plan, t)) return;
  const Memory memory(t, scratch);
  const bool is_adjoint = p.pass == REPLK_GRAD_INPUT;
  // A whole axis of the adjoint starts at its first element and is read p further on; everything else is the reverse.
  const int shift_rows = is_adjoint ? (t.rows.is_whole ? t.rows.reach : 2 * t.rows.reach) : 0;
  const int shift_columns = is_adjoint ? (t.columns.is_whole ? t.columns.reach : 2 * t.columns.reach) : 0;
  const int before_rows = is_adjoint && t.rows.is_whole ? 0 : t.rows.reach;
  const int before_columns = is_adjoint && t.columns.is_whole ? 0 : t.columns.reach;
  const int pairs_in = t.columns.is_whole ? pairs(static_cast<int>(t.columns.size) + before_columns) : t.pairs_in();

  const int64_t tiles = t.tiles();
  int64_t channel = -1;
  const float* spectrum = nullptr;
  float bias = 0;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t c = item / (p.n * tiles), n = item / tiles % p.n, tile = item % tiles;
    if (c != channel) {
      channel = c;
      const T* weight = static_cast<const T*>(b.weight) + c * p.kh * p.kw;
      const char* packed = static_cast<const char*>(b.packed);
      if (packed) packed += c * packed_channel_bytes(p, t);
      if (packed && std::memcmp(packed, weight, static_cast<size_t>(p.kh * p.kw) * sizeof(T)) == 0) {
        spectrum = reinterpret_cast<const float*>(packed + copy_bytes(p));
      } else {
        if (packed) task.stale.store(1, std::memory_order_relaxed);
        make_spectrum(p, t, weight, memory, memory.spectrum);
        spectrum = memory.spectrum;
      }
      bias = !b.bias ? 0.0f
             : p.dtype == REPLK_F32 ? static_cast<const float*>(b.bias)[c]
                                    : bfloat16_to_float(static_cast<const uint16_t*>(b.bias)[c]);
    }
    const int64_t tile_row = tile / t.columns.tiles, tile_column = tile % t.columns.tiles;
    const int64_t row = t.rows.begin(tile_row), column = t.columns.begin(tile_column);
    const T* plane = static_cast<const T*>(b.input) + n * b.input_stride[0] + c * b.input_stride[1];
    forward_columns(t, window(plane, b.input_stride[2], t, row - before_rows, column - before_columns), pairs_in, memory,
                    memory.z);
    const int columns = t.columns.results(tile_column);
    const RowGeometry geometry = {t.rows.length->length, pairs_in, pairs(columns), shift_columns, columns, t.pitch()};
    const RowFunctions& rows = t.columns.length->rows;
    (is_adjoint ? rows.convolve_adjoint : rows.convolve)(memory.z, geometry, spectrum, memory.work);
    Target<T> target;
    target.plane = static_cast<T*>(b.output) + n * b.output_stride[0] + c * b.output_stride[1] +
                   row * b.output_stride[2] + column;
    target.row_stride = b.output_stride[2];
    target.first_row = shift_rows;
    target.rows = t.rows.results(tile_row);
    target.columns = columns;
    target.bias = bias;
    target.relu = p.activation == REPLK_RELU;
    inverse_columns(t, target, memory, memory.z);
  }
}

template <class T>
void correlate(const Task& task, int64_t begin, int64_t end, void* scratch) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  Tiling t;
  if (!tiling_of(p, task.plan, t)) return;
  const Memory memory(t, scratch);
  const int length1 = t.rows.length->length, length2 = t.columns.length->length;
  const float scale = static_cast<float>(0.25 / (static_cast<double>(length1) * length2));
  for (int64_t c = begin; c < end; ++c) {
    float* sum = memory.spectrum;
    std::memset(sum, 0, static_cast<size_t>(t.spectrum_floats()) * sizeof(float));
    for (int64_t item = 0; item < p.n * t.tiles(); ++item) {
      const int64_t n = item / t.tiles(), tile = item % t.tiles();
      const int64_t tile_row = tile / t.columns.tiles, tile_column = tile % t.columns.tiles;
      const int64_t row = t.rows.begin(tile_row), column = t.columns.begin(tile_column);
      const T* x = static_cast<const T*>(b.input) + n * b.input_stride[0] + c * b.input_stride[1];
      const T* grad = static_cast<const T*>(b.grad) + n * b.grad_stride[0] + c * b.grad_stride[1];
      const Source<T> input = window(x, b.input_stride[2], t, row - t.rows.reach, column - t.columns.reach);
      forward_columns(t, input, t.pairs_in(), memory, memory.z);
      Source<T> gradient = window(grad, b.grad_stride[2], t, row, column);
      gradient.row_end = t.rows.results(tile_row);
      gradient.column_end = t.columns.results(tile_column);
      const int pairs_grad = pairs(gradient.column_end);
      forward_columns(t, gradient, pairs_grad, memory, memory.z_grad);
      const RowGeometry geometry = {length1, t.pairs_in(), 0, 0, 0, t.pitch()};
      const RowGeometry geometry_grad = {length1, pairs_grad, 0, 0, 0, t.pitch()};
      t.columns.length->rows.correlate(memory.z, geometry, memory.z_grad, geometry_grad, sum, memory.work,
                                       memory.work_grad);
    }
    for (int64_t i = 0; i < t.spectrum_floats(); ++i) sum[i] *= scale;
    const RowGeometry geometry = {length1, 0, t.pairs_taps(), 0, t.columns.taps(), t.pitch()};
    t.columns.length->rows.inverse(sum, geometry, memory.z, memory.work);
    T* output = static_cast<T*>(b.output) + c * p.kh * p.kw;
    std::memset(output, 0, static_cast<size_t>(p.kh * p.kw) * sizeof(T));
    Target<T> target;
    target.plane = output + t.rows.cropped * p.kw + t.columns.cropped;
    target.row_stride = p.kw;
    target.first_row = 0;
    target.rows = t.rows.taps();
    target.columns = t.columns.taps();
    target.bias = 0;
    target.relu = false;
    inverse_columns(t, target, memory, memory.z);
  }
}

void run(const Task& task, int64_t begin, int64_t end, void* scratch) {
  if (task.problem.pass == REPLK_GRAD_WEIGHT) {
    (task.problem.dtype == REPLK_F32 ? correlate<float> : correlate<uint16_t>)(task, begin, end, scratch);
  } else {
    (task.problem.dtype == REPLK_F32 ? convolve<float> : convolve<uint16_t>)(task, begin, end, scratch);
  }
}

void pack(const replk_problem& p, const replk_plan& plan, const void* weight, void* packed, int64_t begin, int64_t end,
          void* scratch) {
  Tiling t;
  if (!tiling_of(p, plan, t)) return;
  const Memory memory(t, scratch);
  for (int64_t c = begin; c < end; ++c) {
    char* place = static_cast<char*>(packed) + c * packed_channel_bytes(p, t);
    float* spectrum = reinterpret_cast<float*>(place + copy_bytes(p));
    const int64_t taps = p.kh * p.kw;
    if (p.dtype == REPLK_F32) {
      const float* from = static_cast<const float*>(weight) + c * taps;
      std::memcpy(place, from, static_cast<size_t>(taps) * sizeof(float));
      make_spectrum(p, t, from, memory, spectrum);
    } else {
      const uint16_t* from = static_cast<const uint16_t*>(weight) + c * taps;
      std::memcpy(place, from, static_cast<size_t>(taps) * sizeof(uint16_t));
      make_spectrum(p, t, from, memory, spectrum);
    }
  }
}

}  // namespace

const Method fft_methods[3] = {
    {plan_fft, scratch_bytes, items, run, pack},
    {plan_fft, scratch_bytes, items, run, pack},
    {plan_fft, scratch_bytes, items, run, nullptr},
};

}  // namespace REPLK_ISA
}  // namespace replk
