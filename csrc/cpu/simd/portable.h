// Four float32 lanes in plain C++ for any CPU: compilers vectorize the loops (SSE2, NEON, ...).
#ifndef REPLK_CPU_SIMD_PORTABLE_H_
#define REPLK_CPU_SIMD_PORTABLE_H_

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/bfloat16.h"

namespace replk {
namespace portable {

constexpr int kLanes = 4;
constexpr int kRegisters = 16;

#if defined(__GNUC__)
typedef float Native __attribute__((vector_size(16)));
typedef float NativeUnaligned __attribute__((vector_size(16), aligned(4), may_alias));
#else
struct Native {
  float lane[kLanes];
  float& operator[](int i) { return lane[i]; }
  const float& operator[](int i) const { return lane[i]; }
};
#endif

struct Vec {
  Native v;
};

template <class Function>
static inline Vec each(Function function) {
  Vec result;
  for (int i = 0; i < kLanes; ++i) result.v[i] = function(i);
  return result;
}

static inline Vec broadcast(float a) { return {Native{a, a, a, a}}; }
static inline Vec zero() { return broadcast(0.0f); }
#if defined(__GNUC__)
static inline Vec operator+(Vec a, Vec b) { return {a.v + b.v}; }
static inline Vec operator-(Vec a, Vec b) { return {a.v - b.v}; }
static inline Vec operator*(Vec a, Vec b) { return {a.v * b.v}; }
static inline Vec operator/(Vec a, Vec b) { return {a.v / b.v}; }
static inline Vec load(const float* p) { return {*reinterpret_cast<const NativeUnaligned*>(p)}; }
static inline void store(float* p, Vec a) { *reinterpret_cast<NativeUnaligned*>(p) = a.v; }
#else
static inline Vec operator+(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
static inline Vec operator-(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
static inline Vec operator*(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
static inline Vec operator/(Vec a, Vec b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
static inline Vec load(const float* p) {
  return each([&](int i) { return p[i]; });
}
static inline void store(float* p, Vec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = a.v[i];
}
#endif
// The compiler decides whether multiplication and addition are fused.
static inline Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
static inline Vec fnma(Vec a, Vec b, Vec c) { return c - a * b; }
// Not `a > 0 ? a : 0`, which would replace NaN by 0.
static inline Vec relu(Vec a) {
  return each([&](int i) { return a.v[i] < 0.0f ? 0.0f : a.v[i]; });
}
static inline Vec at_most(Vec a, float limit) {
  return each([&](int i) { return a.v[i] > limit ? limit : a.v[i]; });  // keeps NaN
}
// `negative` in the lanes whose sign bit in `a` is set, `other` elsewhere.
static inline Vec by_sign(Vec a, Vec negative, Vec other) {
  return each([&](int i) { return std::signbit(a.v[i]) ? negative.v[i] : other.v[i]; });
}
// The number whose sign and exponent are the lowest nine bits of each lane.
static inline Vec from_low_bits(Vec a) {
  return each([&](int i) {
    const float lane = a.v[i];
    uint32_t bits;
    std::memcpy(&bits, &lane, sizeof bits);
    bits <<= 23;
    float number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
  });
}
static inline float sum(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
static inline void stream(float* p, Vec a) { store(p, a); }
static inline void stream_fence() {}

// Prefetches any address into the second-level cache.
static inline void prefetch(const void* p) {
#if defined(__GNUC__)
  __builtin_prefetch(p, 0, 2);
#else
  (void)p;
#endif
}

static inline Vec load(const uint16_t* p) {
  return each([&](int i) { return bfloat16_to_float(p[i]); });
}
static inline void store(uint16_t* p, Vec a) {
  for (int i = 0; i < kLanes; ++i) p[i] = float_to_bfloat16(a.v[i]);
}

// Lanes [begin, end) of the vector at p; only those lanes need to be inside the array.
static inline Vec load_between(const float* p, int begin, int end) {
  return each([&](int i) { return i >= begin && i < end ? p[i] : 0.0f; });
}
static inline Vec load_between(const uint16_t* p, int begin, int end) {
  return each([&](int i) { return i >= begin && i < end ? bfloat16_to_float(p[i]) : 0.0f; });
}
// The first `count` lanes, 0 to kLanes: no other element is accessed, and the other lanes of a load are zero.
template <class T>
static inline Vec load_first(const T* p, int count) {
  return load_between(p, 0, count);
}
static inline void store_first(float* p, Vec a, int count) {
  for (int i = 0; i < count; ++i) p[i] = a.v[i];
}
static inline void store_first(uint16_t* p, Vec a, int count) {
  for (int i = 0; i < count; ++i) p[i] = float_to_bfloat16(a.v[i]);
}

// The lowest 16 bits of each lane, of all lanes or of the first `count`.
static inline void store_low_bits(uint16_t* p, Vec a, int count) {
  for (int i = 0; i < kLanes && i < count; ++i) {
    const float lane = a.v[i];
    uint32_t bits;
    std::memcpy(&bits, &lane, sizeof bits);
    p[i] = static_cast<uint16_t>(bits);
  }
}
// 2^23 plus the integer at p for each lane, 2^23 for lanes from `count` on.
static inline Vec load_low_bits(const uint16_t* p, int count) {
  return each([&](int i) { return 8388608.0f + (i < count ? static_cast<float>(p[i]) : 0.0f); });
}

// The lower lanes from p, the upper lanes from q: reads half a vector each.
static inline Vec load_halves(const float* p, const float* q) {
  return each([&](int i) { return i < kLanes / 2 ? p[i] : q[i - kLanes / 2]; });
}
static inline Vec swap_halves(Vec a) {
  return each([&](int i) { return a.v[(i + kLanes / 2) % kLanes]; });
}

// Transposes rows and columns.
static inline void transpose(Vec (&m)[kLanes]) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = i + 1; j < kLanes; ++j) {
      const float swapped = m[i].v[j];
      m[i].v[j] = m[j].v[i];
      m[j].v[i] = swapped;
    }
  }
}

}  // namespace portable
}  // namespace replk

#endif  // REPLK_CPU_SIMD_PORTABLE_H_
