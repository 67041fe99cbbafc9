// FFT convolution of whole small planes in the channel-blocked layout: forward and grad input.
//
// Transforms of at least H + Kh / 2 by W + Kw / 2 points: the cyclic wrap-around only affects points that are not read.
// Unlike the tiled FFT (fft.cpp), nothing is transposed between columns and rows, only between planes and the blocked
// layout, and no lane is wasted at the end of a row. Channels do not share transforms, so a channel with large values
// does not add rounding errors to another one.
//
// The transforms use the prime-factor algorithm: lengths are products of coprime factors, which needs no twiddle
// factors (I. J. Good, "The interaction algorithm and practical Fourier analysis", J. R. Stat. Soc. B 20, 1958; L. H.
// Thomas, "Using a computer to solve problems in physics", 1963).
//
// A value that is not finite makes its whole plane not finite, and no other plane.
#include <cstring>

#include "common/task.h"
#include "cpu/blocked/transpose.h"
#include "cpu/blocked_pfa/lengths.h"
#include "cpu/common/copy.h"

namespace replk {
namespace REPLK_ISA {
namespace {

constexpr int64_t kMaxScratch = 512 * 1024;  // bytes of a thread, to fit the second-level cache
constexpr int64_t kMostPackedBytes = int64_t{8} << 20;

const PfaLength* find_length(int64_t length) {
  for (const PfaLength& candidate : kPfaLengths) {
    if (candidate.length == length) return &candidate;
  }
  return nullptr;
}

const PfaLength* shortest(int64_t size, int64_t taps) {
  for (const PfaLength& candidate : kPfaLengths) {
    if (candidate.length >= size + taps / 2) return &candidate;
  }
  return nullptr;
}

// Sizes and offsets in the scratch memory of a thread, in floats.
struct Layout {
  Kernel kernel;
  const PfaLength *down, *along;
  int64_t slots, pitch;  // of a half spectrum; floats from one slot to the next
  int64_t reals;         // number of real rows, all in slot 0
  int64_t spectrum;      // floats of a group's kernels
  int64_t zeros_size;
  int64_t plane, half, real, zeros, factors, size;  // offsets, and the total size

  Layout(const replk_problem& p, const PfaLength* down, const PfaLength* along) : kernel(p), down(down), along(along) {
    slots = (down->length + 1) / 2;
    reals = 2 - down->length % 2;
    // An odd number of cache lines, against conflicts between slots.
    pitch = larger(p.w, kernel.kw) * kComplex + kLine;
    spectrum = reals * real_row() + (slots - 1) * along->length * kComplex;
    zeros_size = larger(larger(p.w, kernel.kw) * kLanes, kComplex);
    size = 0;
    const auto take = [&](int64_t floats) {
      size += round_up(floats, kLine);
      return size - round_up(floats, kLine);
    };
    plane = take(larger(p.h * p.w, kernel.kh * kernel.kw) * kLanes);
    half = take(slots * pitch);
    real = take(real_row());
    zeros = take(zeros_size);
    factors = take(spectrum);
  }

  // Floats of the spectrum of a real row.
  int64_t real_row() const { return (along->length + 1) / 2 * kComplex; }
  int64_t weight_bytes(const replk_problem& p) const {
    return round_up(kLanes * p.kh * p.kw * (p.dtype == REPLK_F32 ? 4 : 2), 64);
  }
  int64_t packed_bytes(const replk_problem& p) const { return weight_bytes(p) + spectrum * 4; }
};

bool plan_blocked_pfa(const replk_problem& p, replk_plan& plan) {
  if (p.h < 1 || p.w < 1) return false;
  const Kernel kernel(p);
  const PfaLength *down = shortest(p.h, kernel.kh), *along = shortest(p.w, kernel.kw);
  if (!down || !along) return false;
  const Layout layout(p, down, along);
  if (layout.size * 4 > kMaxScratch) return false;
  plan.channels_last = p.channels_last;
  plan.tile_h = down->length;
  plan.tile_w = along->length;
  const int64_t bytes = divide_up(p.c, kLanes) * layout.packed_bytes(p);
  plan.packed_bytes = bytes <= kMostPackedBytes ? bytes : 0;
  return true;
}

Layout layout_of(const replk_problem& p, const replk_plan& plan) {
  return Layout(p, find_length(plan.tile_h), find_length(plan.tile_w));
}

int64_t scratch_bytes(const replk_problem& p, const replk_plan& plan) {
  return round_up(layout_of(p, plan).size * 4, 64);
}

// In vector operations. Besides the transforms, the measured cost of a pixel (transposes, products of spectra) and of a
// tap (comparison or transpose).
double operations(const replk_problem& p, const replk_plan& plan) {
  const Layout l = layout_of(p, plan);
  const auto transforms = [&](int64_t columns) {
    return static_cast<double>(columns * l.down->operations / 2 + l.slots * l.along->operations);
  };
  const double plane = 2 * transforms(p.w) + (plan.channels_last ? 3.0 : 10.0) * static_cast<double>(p.h * p.w);
  const bool is_ready = p.prepared && plan.packed_bytes > 0;
  const double weight = 5.0 * static_cast<double>(p.kh * p.kw) + (is_ready ? 0 : transforms(l.kernel.kw));
  return static_cast<double>(divide_up(p.c, kLanes)) * (static_cast<double>(p.n) * plane + weight);
}

int64_t items(const replk_problem& p, const replk_plan&) { return p.n * divide_up(p.c, kLanes); }

int channels(const replk_problem& p, int64_t group) { return static_cast<int>(smaller(kLanes, p.c - group * kLanes)); }

// Points of which `count`, cyclically from `begin`, are pixels.
Points points_of(int length, int64_t begin, int64_t count, const float* first, int64_t stride, const float* zeros) {
  Points points;
  for (int n = 0; n < length; ++n) points.at[n] = zeros;
  for (int64_t n = 0; n < count; ++n) points.at[(begin + length + n) % length] = first + n * stride;
  return points;
}

// Moves the points that are pixels to the next row.
void move(Points& points, int length, const float* zeros, int64_t distance) {
  for (int n = 0; n < length; ++n) points.at[n] += points.at[n] == zeros ? 0 : distance;
}

// The spectra of a group's kernels, scaled for the unnormalized forward and inverse transforms.
template <class T>
void make_spectrum(const replk_problem& p, const Layout& l, const void* weight, int64_t group, float* memory,
                   float* spectrum) {
  const Kernel& k = l.kernel;
  const PlaneShape shape = {k.kh, k.kw, k.full_w, k.full_h * k.full_w, k.kw, channels(p, group)};
  const int64_t first = group * kLanes * k.full_h * k.full_w + k.crop_h * k.full_w + k.crop_w;
  float *plane = memory + l.plane, *half = memory + l.half, *zeros = memory + l.zeros;
  clear(zeros, l.zeros_size);
  planes_to_blocked(plane, static_cast<const T*>(weight) + first, shape, false);
  const int rows = l.down->length, columns = l.along->length;
  const Points down = points_of(rows, -k.pad_h(), k.kh, plane, k.kw * kLanes, zeros);
  for (int64_t j = 0; j < k.kw; ++j) l.down->forward(down, j * kLanes, half + j * kComplex, l.pitch);
  for (int part = 0; part < l.reals; ++part) {
    const Points along = points_of(columns, -k.pad_w(), k.kw, half + part * kLanes, kComplex, zeros);
    l.along->forward(along, 0, spectrum + part * l.real_row(), kComplex);
  }
  float* row = spectrum + l.reals * l.real_row();
  for (int64_t slot = 1; slot < l.slots; ++slot, row += columns * kComplex) {
    l.along->spectrum(points_of(columns, -k.pad_w(), k.kw, half + slot * l.pitch, kComplex, zeros), row);
  }
  const Vec scale = broadcast(1.0f / static_cast<float>(rows * columns));
  for (int64_t i = 0; i < l.spectrum; i += kLanes) store(spectrum + i, load(spectrum + i) * scale);
}

// Multiplies the half spectra of real rows.
void multiply_real(float* x, const float* factors, int64_t slots, bool is_adjoint) {
  store(x, load(x) * load(factors));
  store(x + kLanes, load(x + kLanes) * load(factors + kLanes));
  for (int64_t slot = 1; slot < slots; ++slot) {
    const Cx a = load_complex(x + slot * kComplex), b = load_complex(factors + slot * kComplex);
    store_complex(x + slot * kComplex, is_adjoint ? multiply_conjugate(a, b) : multiply(a, b));
  }
}

// Convolves a blocked plane in place.
void convolve_plane(const replk_problem& p, const Layout& l, const float* spectrum, Vec bias, float* memory) {
  const bool is_adjoint = p.pass != REPLK_GRAD_INPUT;  // a correlation multiplies by the conjugate
  const int columns = l.along->length;
  float *plane = memory + l.plane, *half = memory + l.half, *real = memory + l.real, *zeros = memory + l.zeros;
  const Points down = points_of(l.down->length, 0, p.h, plane, p.w * kLanes, zeros);
  for (int64_t j = 0; j < p.w; ++j) l.down->forward(down, j * kLanes, half + j * kComplex, l.pitch);
  Points along = points_of(columns, 0, p.w, half, kComplex, zeros);
  for (int part = 0; part < l.reals; ++part) {
    l.along->forward(along, part * kLanes, real, kComplex);
    multiply_real(real, spectrum + part * l.real_row(), (columns + 1) / 2, is_adjoint);
    l.along->backward(real, kComplex, half + part * kLanes, kComplex, p.w, zero(), false);
  }
  const float* factors = spectrum + l.reals * l.real_row();
  for (int64_t slot = 1; slot < l.slots; ++slot, factors += columns * kComplex) {
    move(along, columns, zeros, l.pitch);
    l.along->multiply(along, factors, half + slot * l.pitch, p.w, is_adjoint);
  }
  for (int64_t j = 0; j < p.w; ++j) {
    l.down->backward(half + j * kComplex, l.pitch, plane + j * kLanes, p.w * kLanes, p.h, bias,
                     p.activation == REPLK_RELU);
  }
}

template <class T>
void convolve_groups(const Task& task, int64_t begin, int64_t end, float* memory) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  const Layout l = layout_of(p, task.plan);
  clear(memory + l.zeros, l.zeros_size);
  const float* spectrum = nullptr;
  Vec bias = zero();
  int64_t ready = -1;
  for (int64_t item = begin; item < end; ++item) {
    const int64_t group = item / p.n, n = item % p.n;
    const int lanes = channels(p, group);
    if (group != ready) {
      const T* weight = static_cast<const T*>(b.weight) + group * kLanes * p.kh * p.kw;
      const char* packed = task.packed ? task.packed + group * l.packed_bytes(p) : nullptr;
      if (packed && std::memcmp(packed, weight, static_cast<size_t>(lanes * p.kh * p.kw) * sizeof(T)) == 0) {
        spectrum = reinterpret_cast<const float*>(packed + l.weight_bytes(p));
      } else {
        if (packed) task.stale.store(1, std::memory_order_relaxed);
        make_spectrum<T>(p, l, b.weight, group, memory, memory + l.factors);
        spectrum = memory + l.factors;
      }
      if (b.bias) bias = load_first(static_cast<const T*>(b.bias) + group * kLanes, lanes);
      ready = group;
    }
    const PlaneShape from = group_shape(p, task.plan, b.input_stride, p.w, lanes);
    const PlaneShape to = group_shape(p, task.plan, b.output_stride, p.w, lanes);
    const T* x = static_cast<const T*>(b.input) + n * b.input_stride[0] + group * kLanes * from.channel_stride;
    T* y = static_cast<T*>(b.output) + n * b.output_stride[0] + group * kLanes * to.channel_stride;
    group_to_blocked(task.plan, memory + l.plane, x, from);
    convolve_plane(p, l, spectrum, bias, memory);
    blocked_to_group(task.plan, y, memory + l.plane, to);
  }
}

void convolve(const Task& task, int64_t begin, int64_t end, void* scratch) {
  float* memory = static_cast<float*>(scratch);
  if (task.problem.dtype == REPLK_F32) {
    convolve_groups<float>(task, begin, end, memory);
  } else {
    convolve_groups<uint16_t>(task, begin, end, memory);
  }
}

// Prepares the groups whose first channel is in [begin, end).
void pack(const replk_problem& p, const replk_plan& plan, const void* weight, char* packed, int64_t begin, int64_t end,
          void* scratch) {
  const Layout l = layout_of(p, plan);
  float* memory = static_cast<float*>(scratch);
  const int64_t size = p.dtype == REPLK_F32 ? 4 : 2;
  for (int64_t group = divide_up(begin, kLanes); group < divide_up(end, kLanes); ++group) {
    char* place = packed + group * l.packed_bytes(p);
    float* spectrum = reinterpret_cast<float*>(place + l.weight_bytes(p));
    std::memcpy(place, static_cast<const char*>(weight) + group * kLanes * p.kh * p.kw * size,
                static_cast<size_t>(channels(p, group) * p.kh * p.kw * size));
    if (p.dtype == REPLK_F32) {
      make_spectrum<float>(p, l, weight, group, memory, spectrum);
    } else {
      make_spectrum<uint16_t>(p, l, weight, group, memory, spectrum);
    }
  }
}

}  // namespace

const Method blocked_pfa_methods[3] = {
    {plan_blocked_pfa, scratch_bytes, items, convolve, pack, operations},
    {plan_blocked_pfa, scratch_bytes, items, convolve, pack, operations},
    {},
};

}  // namespace REPLK_ISA
}  // namespace replk
