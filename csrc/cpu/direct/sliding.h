// Forward and grad input of the smallest square kernels without a padded copy, which would take from an eighth (7x7) to
// all (3x3) of the time of the sums.
//
//   y[i][j] = act(bias + sum_{u,v < K} x[i + u - K/2][j + v - K/2] w[u][v])
//
// A window of K rows and C vectors of columns slides down the plane. Each row of x is loaded at its K column offsets
// and added to the K rows of y that it contributes to, whose accumulators move up by one from row to row. Strips of
// columns at the left and right edges are copied first, with padding; nothing outside the plane is read. Any row
// strides, no alignment; x and y must not overlap. Critical instructions: fused multiply-add with K C accumulators,
// unaligned loads.
#ifndef REPLK_CPU_DIRECT_SLIDING_H_
#define REPLK_CPU_DIRECT_SLIDING_H_

#include "cpu/common/copy.h"
#include "cpu/common/output.h"
#include "cpu/common/unroll.h"
#include "cpu/direct/rows.h"

namespace replk {
namespace REPLK_ISA {

struct SlidingInput {
  const float* x;  // [h][w], row 0, column 0
  int64_t x_row;
  int64_t h, w;
  const float* weight;  // [K][K]
  int64_t i0, i1;       // rows of y
  float* strip;         // scratch for a copied strip
  PrefetchPair* ahead;  // or null; as many steps as there are vectors
};

struct SlidingOutput {
  float* y;  // row 0, column 0
  int64_t y_row;
  float bias;
  bool relu;
  bool streams;  // use non-temporal stores: every vector is full and aligned
};

// Vectors per window: 3 x 4 accumulators, 9 weights and 4 inputs fit 32 registers, 3 x 2 + 9 + 1 fit 16. Larger kernels
// read their weights from memory: 7 x 3 accumulators, 3 inputs and a weight fit 32 registers.
template <int K>
constexpr int kSlidingColumns = kRegisters < 32 || K == 5 ? 2
                                : K == 3                  ? 4
                                                          : 3;
constexpr int64_t kStripPitch = 5 * kLanes + kLine;

static REPLK_INLINE void store_sliding(const SlidingOutput& out, float* y, Vec sum, Vec bias, int count) {
  Vec value = sum + bias;
  if (out.relu) value = relu(value);
  if (out.streams) {
    stream(y, value);
  } else if (count == kLanes) {
    store(y, value);
  } else {
    store_first(y, value, count);
  }
}

// Columns [j, j + C kLanes) of y; `x` points at column j - K/2 of row 0, rows x_row apart.
template <int K, int C>
static void slide_columns(const SlidingInput& in, const SlidingOutput& out, const float* x, int64_t x_row, int64_t j) {
  constexpr int kPad = K / 2;
  const int last_count = static_cast<int>(smaller(in.w - j - (C - 1) * kLanes, kLanes));
  Vec acc[K][C];  // acc[k]: row i - kPad + k of y, at row i of x
  REPLK_UNROLL
  for (int k = 0; k < K; ++k) {
    REPLK_UNROLL
    for (int c = 0; c < C; ++c) acc[k][c] = zero();
  }
  const Vec bias = broadcast(out.bias);
  const int64_t begin = larger(in.i0 - kPad, 0), end = smaller(in.i1 + kPad, in.h);
  x += begin * x_row;
  float* y = out.y + (begin - kPad) * out.y_row + j;
  for (int64_t i = begin; i < end; ++i, x += x_row, y += out.y_row) {
    if (in.ahead) in.ahead->step(C);
    REPLK_UNROLL
    for (int v = 0; v < K; ++v) {
      Vec input[C];
      REPLK_UNROLL
      for (int c = 0; c < C; ++c) input[c] = in_register(load(x + v + c * kLanes));
      REPLK_UNROLL
      for (int u = 0; u < K; ++u) {
        const Vec factor = broadcast(in.weight[u * K + v]);
        REPLK_UNROLL
        for (int c = 0; c < C; ++c) acc[K - 1 - u][c] = fma(input[c], factor, acc[K - 1 - u][c]);
      }
    }
    if (i - kPad >= in.i0) {
      REPLK_UNROLL
      for (int c = 0; c < C; ++c) {
        store_sliding(out, y + c * kLanes, acc[0][c], bias, c < C - 1 ? kLanes : last_count);
      }
    }
    REPLK_UNROLL
    for (int c = 0; c < C; ++c) {
      REPLK_UNROLL
      for (int k = 0; k < K - 1; ++k) acc[k][c] = acc[k + 1][c];
      acc[K - 1][c] = zero();
    }
  }
  REPLK_UNROLL
  for (int k = 0; k < kPad; ++k, y += out.y_row) {  // rows whose window extends beyond the plane
    if (end - kPad + k >= in.i1) break;
    if (end - kPad + k < in.i0) continue;  // belongs to the band above: this band has fewer rows than the radius
    REPLK_UNROLL
    for (int c = 0; c < C; ++c) {
      store_sliding(out, y + c * kLanes, acc[k][c], bias, c < C - 1 ? kLanes : last_count);
    }
  }
}

// Columns at an edge, through a zero-padded copy.
template <int K, int C>
static void slide_strip(const SlidingInput& in, const SlidingOutput& out, int64_t j) {
  constexpr int kPad = K / 2;
  const int64_t begin = larger(in.i0 - kPad, 0), end = smaller(in.i1 + kPad, in.h);
  const auto lane = [](int64_t k) { return static_cast<int>(k < 0 ? 0 : k > kLanes ? kLanes : k); };
  for (int64_t i = begin; i < end; ++i) {
    const float* from = in.x + i * in.x_row + j - kPad;
    float* to = in.strip + (i - begin) * kStripPitch;
    REPLK_UNROLL
    for (int k = 0; k < C + (K - 1 + kLanes - 1) / kLanes; ++k) {
      const int64_t column = j - kPad + k * kLanes;
      store(to + k * kLanes, load_between(from + k * kLanes, lane(-column), lane(in.w - column)));
    }
  }
  slide_columns<K, C>(in, out, in.strip - begin * kStripPitch, kStripPitch, j);
}

template <int K>
struct Sliding {
  static void strip(const SlidingInput& in, const SlidingOutput& out, int64_t j, int64_t vectors) {
    if (vectors == 1) return slide_strip<K, 1>(in, out, j);
    if (kSlidingColumns<K> == 2 || vectors == 2) return slide_strip<K, 2>(in, out, j);
    if constexpr (kSlidingColumns<K> > 2) {
      if (kSlidingColumns<K> == 3 || vectors == 3) return slide_strip<K, 3>(in, out, j);
      slide_strip<K, kSlidingColumns<K>>(in, out, j);
    }
  }

  template <int C>
  static int64_t inner(const SlidingInput& in, const SlidingOutput& out, int64_t j) {
    if constexpr (C > 0) {
      for (; j + C * kLanes + K / 2 <= in.w; j += C * kLanes) {
        slide_columns<K, C>(in, out, in.x + j - K / 2, in.x_row, j);
      }
      return inner<C - 1>(in, out, j);
    }
    return j;
  }

  static void run(const SlidingInput& in, const SlidingOutput& out) {
    const int64_t vectors = divide_up(in.w, kLanes);
    if (vectors <= kSlidingColumns<K>) return strip(in, out, 0, vectors);
    constexpr int kFirst = kLanes < kLine ? 2 : 1;  // the next vectors start at a cache line if y does
    strip(in, out, 0, kFirst);
    const int64_t j = inner<kSlidingColumns<K>>(in, out, kFirst * kLanes);
    if (j < in.w) strip(in, out, j, divide_up(in.w - j, kLanes));
  }
};

using SlidingFunction = void (*)(const SlidingInput&, const SlidingOutput&);

// The function for the problem's kernel size, or null.
static inline SlidingFunction find_sliding(const replk_problem& p) {
  const Kernel k(p);
  if (p.dtype != REPLK_F32 || k.kh != k.kw) return nullptr;
  if (k.kh == 3) return Sliding<3>::run;
  if (k.kh == 5) return Sliding<5>::run;
  if constexpr (kRegisters >= 32) {  // with 16, two vectors per window do not fit
    // Folding saves half a vector of sums per row instead, about as much.
    if (k.kh == 7 && !is_folded(p.h, p.w)) return Sliding<7>::run;
  }
  return nullptr;
}

// Bands of whole rows that fit the first-level cache together with the output. All sums of the K - 1 rows around a band
// are computed, most of them for nothing, so that bands of 7x7 kernels only fit a second-level cache.
static inline Bands cut_into_sliding_bands(const replk_problem& p) {
  const bool is_large = Kernel(p).kh >= 7;
  const int64_t band_size = (is_large ? 32 : 4) * 1024, min_height = is_large ? 64 : 16;
  Bands b{};
  b.across = 1;
  b.width = larger(p.w, 1);
  b.height = smaller(larger(band_size / b.width, min_height), larger(p.h, 1));
  b.down = divide_up(larger(p.h, 1), b.height);
  b.height = divide_up(larger(p.h, 1), b.down);
  b.down = divide_up(larger(p.h, 1), b.height);
  return b;
}

// Scratch of a thread: the weight and a strip.
constexpr int64_t kSlidingWeight = 4 * kLine;

static inline int64_t sliding_scratch(const replk_problem& p) {
  return kSlidingWeight + (cut_into_sliding_bands(p).height + p.kh - 1) * kStripPitch;
}

// Items are bands, in the order of memory.
static void sliding_items(const Task& task, int64_t begin, int64_t end, float* weight) {
  const replk_problem& p = task.problem;
  const replk_buffers& b = task.buffers;
  const Kernel k(p);
  const Bands bands = cut_into_sliding_bands(p);
  const SlidingFunction convolve = find_sliding(p);
  const float* bias = static_cast<const float*>(b.bias);
  const auto input = [&](const PlaneBand& at) {
    return static_cast<const float*>(b.input) + at.n * b.input_stride[0] + at.c * b.input_stride[1];
  };
  const auto output = [&](const PlaneBand& at) {
    return static_cast<float*>(b.output) + at.n * b.output_stride[0] + at.c * b.output_stride[1];
  };
  const bool is_large = is_larger_than_caches(p);
  const bool streams = is_large && can_stream(b, p);
  int64_t ready = -1;
  for (int64_t item = begin; item < end; ++item) {
    const PlaneBand at(item, p, bands), next(item + 1 < end ? item + 1 : item, p, bands);
    if (at.c != ready) {
      prepare_weight(weight, static_cast<const float*>(b.weight) + at.c * p.kh * p.kw, k, p.pass == REPLK_GRAD_INPUT);
      ready = at.c;
    }
    PrefetchPair ahead(next.prefetch(is_large, input(next), b.input_stride[2]),
                       next.prefetch(is_large && !streams, output(next), b.output_stride[2]),
                       at.height * divide_up(p.w, kLanes));
    convolve({input(at), b.input_stride[2], p.h, p.w, weight, at.i0, at.i0 + at.height, weight + kSlidingWeight,
              is_large ? &ahead : nullptr},
             {output(at), b.output_stride[2], bias ? bias[at.c] : 0.0f, p.activation == REPLK_RELU, streams});
  }
  if (streams) stream_fence();
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_DIRECT_SLIDING_H_
