// Four float32 lanes: NEON (Advanced SIMD) of 64-bit Arm, which every such CPU has.
#ifndef REPLK_CPU_SIMD_NEON_H_
#define REPLK_CPU_SIMD_NEON_H_

#include <arm_neon.h>

#include <cstdint>

namespace replk {
namespace neon {

constexpr int kLanes = 4;
constexpr int kRegisters = 32;

struct Vec {
  float32x4_t v;
};

static inline Vec zero() { return {vdupq_n_f32(0.0f)}; }
static inline Vec broadcast(float a) { return {vdupq_n_f32(a)}; }
static inline Vec operator+(Vec a, Vec b) { return {vaddq_f32(a.v, b.v)}; }
static inline Vec operator-(Vec a, Vec b) { return {vsubq_f32(a.v, b.v)}; }
static inline Vec operator*(Vec a, Vec b) { return {vmulq_f32(a.v, b.v)}; }
static inline Vec operator/(Vec a, Vec b) { return {vdivq_f32(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {vfmaq_f32(c.v, a.v, b.v)}; }   // a b + c
static inline Vec fnma(Vec a, Vec b, Vec c) { return {vfmsq_f32(c.v, a.v, b.v)}; }  // c - a b
// If either operand of min or max is NaN, the result is NaN.
static inline Vec relu(Vec a) { return {vmaxq_f32(vdupq_n_f32(0.0f), a.v)}; }
static inline Vec at_most(Vec a, float limit) { return {vminq_f32(vdupq_n_f32(limit), a.v)}; }  // keeps NaN
// `negative` in the lanes whose sign bit in `a` is set, `other` elsewhere.
static inline Vec by_sign(Vec a, Vec negative, Vec other) {
  return {vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(a.v)), negative.v, other.v)};
}
// The number whose sign and exponent are the lowest nine bits of each lane.
static inline Vec from_low_bits(Vec a) { return {vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(a.v), 23))}; }
static inline float sum(Vec a) { return vaddvq_f32(a.v); }

static inline Vec load(const float* p) { return {vld1q_f32(p)}; }
static inline void store(float* p, Vec a) { vst1q_f32(p, a.v); }
// An ordinary store: NEON has non-temporal stores of pairs of registers only.
static inline void stream(float* p, Vec a) { store(p, a); }
static inline void stream_fence() {}

static inline Vec from_bfloat16(uint16x4_t bits) { return {vreinterpretq_f32_u32(vshll_n_u16(bits, 16))}; }
// By integer operations: the instruction that does the same (FEAT_BF16) is missing on many CPUs.
static inline uint16x4_t to_bfloat16(Vec a) {
  const uint32x4_t bits = vreinterpretq_u32_f32(a.v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  const uint32x4_t is_number = vceqq_f32(a.v, a.v);
  return vshrn_n_u32(vbslq_u32(is_number, rounded, quiet), 16);
}
static inline Vec load(const uint16_t* p) { return from_bfloat16(vld1_u16(p)); }
static inline void store(uint16_t* p, Vec a) { vst1_u16(p, to_bfloat16(a)); }

// Prefetches any address into the second-level cache.
static inline void prefetch(const void* p) { __builtin_prefetch(p, 0, 2); }

// Lanes [begin, end) of the vector at p; only those lanes need to be inside the array, and the others are zero. Loops
// over all lanes are unrolled.
static inline Vec load_between(const float* p, int begin, int end) {
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i >= begin && i < end ? p[i] : 0.0f;
  return load(lanes);
}
static inline Vec load_between(const uint16_t* p, int begin, int end) {
  uint16_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i >= begin && i < end ? p[i] : uint16_t{0};
  return load(lanes);
}
// The first `count` lanes, 0 to kLanes: no other element is accessed, and the other lanes of a load are zero.
template <class T>
static inline Vec load_first(const T* p, int count) {
  return load_between(p, 0, count);
}
template <class T>
static inline void store_first(T* p, Vec a, int count) {
  T lanes[kLanes];
  store(lanes, a);
  for (int i = 0; i < kLanes; ++i) {
    if (i < count) p[i] = lanes[i];
  }
}

// The lowest 16 bits of each lane, of all lanes or of the first `count`.
static inline void store_low_bits(uint16_t* p, Vec a, int count) {
  uint16_t lanes[kLanes];
  vst1_u16(lanes, vmovn_u32(vreinterpretq_u32_f32(a.v)));
  for (int i = 0; i < kLanes; ++i) {
    if (i < count) p[i] = lanes[i];
  }
}
// 2^23 plus the integer at p for each lane, 2^23 for lanes from `count` on.
static inline Vec load_low_bits(const uint16_t* p, int count) {
  uint16_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i < count ? p[i] : uint16_t{0};
  return {vreinterpretq_f32_u32(vorrq_u32(vmovl_u16(vld1_u16(lanes)), vdupq_n_u32(0x4b000000)))};
}

// The lower lanes from p, the upper lanes from q: reads half a vector each.
static inline Vec load_halves(const float* p, const float* q) { return {vcombine_f32(vld1_f32(p), vld1_f32(q))}; }
static inline Vec swap_halves(Vec a) { return {vextq_f32(a.v, a.v, 2)}; }

// Transposes rows and columns.
static inline void transpose(Vec (&m)[kLanes]) {
  const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(m[0].v, m[1].v));  // m00 m10 m02 m12
  const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(m[0].v, m[1].v));  // m01 m11 m03 m13
  const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(m[2].v, m[3].v));  // m20 m30 m22 m32
  const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(m[2].v, m[3].v));  // m21 m31 m23 m33
  m[0].v = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
  m[1].v = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
  m[2].v = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
  m[3].v = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}

}  // namespace neon
}  // namespace replk

#endif  // REPLK_CPU_SIMD_NEON_H_
