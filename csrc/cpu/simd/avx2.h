// Eight float32 lanes: AVX2 and FMA.
#ifndef REPLK_CPU_SIMD_AVX2_H_
#define REPLK_CPU_SIMD_AVX2_H_

#include <immintrin.h>

#include <cstdint>

namespace replk {
namespace avx2 {

constexpr int kLanes = 8;
constexpr int kRegisters = 16;

struct Vec {
  __m256 v;
};

static inline Vec zero() { return {_mm256_setzero_ps()}; }
static inline Vec broadcast(float a) { return {_mm256_set1_ps(a)}; }
static inline Vec operator+(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline Vec operator-(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline Vec operator/(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }    // a b + c
static inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm256_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a b
// If either operand of min or max is NaN, the result is the second operand.
static inline Vec relu(Vec a) { return {_mm256_max_ps(_mm256_setzero_ps(), a.v)}; }
static inline Vec at_most(Vec a, float limit) { return {_mm256_min_ps(_mm256_set1_ps(limit), a.v)}; }  // keeps NaN
// `negative` in the lanes whose sign bit in `a` is set, `other` elsewhere.
static inline Vec by_sign(Vec a, Vec negative, Vec other) { return {_mm256_blendv_ps(other.v, negative.v, a.v)}; }
// The number whose sign and exponent are the lowest nine bits of each lane.
static inline Vec from_low_bits(Vec a) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(a.v), 23))};
}
static inline float sum(Vec a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static inline Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
// Non-temporal store; p is aligned to the vector.
static inline void stream(float* p, Vec a) { _mm256_stream_ps(p, a.v); }
static inline void stream_fence() { _mm_sfence(); }

static inline Vec load(const uint16_t* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}
static inline void store(uint16_t* p, Vec a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
  const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}

// Prefetches any address into the second-level cache.
static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

// The first `count` lanes, 0 to kLanes: no other element is accessed, and the other lanes of a load are zero.
static inline __m256i first(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline Vec load_first(const float* p, int count) { return {_mm256_maskload_ps(p, first(count))}; }
static inline void store_first(float* p, Vec a, int count) { _mm256_maskstore_ps(p, first(count), a.v); }
static inline Vec load_between(const float* p, int begin, int end) {
  return {_mm256_maskload_ps(p, _mm256_andnot_si256(first(begin), first(end)))};
}
// Lanes [begin, end) of the vector at p; only those lanes need to be inside the array.
static inline Vec load_between(const uint16_t* p, int begin, int end) {
  alignas(16) uint16_t lanes[kLanes] = {};
  for (int i = begin; i < end; ++i) lanes[i] = p[i];
  return load(lanes);
}
static inline Vec load_first(const uint16_t* p, int count) { return load_between(p, 0, count); }
static inline void store_first(uint16_t* p, Vec a, int count) {
  alignas(16) uint16_t lanes[kLanes];
  store(lanes, a);
  for (int i = 0; i < count; ++i) p[i] = lanes[i];
}

// The lowest 16 bits of each lane, of all lanes or of the first `count`.
static inline void store_low_bits(uint16_t* p, Vec a, int count) {
  const __m256i low = _mm256_and_si256(_mm256_castps_si256(a.v), _mm256_set1_epi32(0xffff));
  const __m128i packed = _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
  if (count >= kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
    return;
  }
  alignas(16) uint16_t lanes[kLanes];
  _mm_store_si128(reinterpret_cast<__m128i*>(lanes), packed);
  for (int i = 0; i < count; ++i) p[i] = lanes[i];
}
// 2^23 plus the integer at p for each lane, 2^23 for lanes from `count` on.
static inline Vec load_low_bits(const uint16_t* p, int count) {
  alignas(16) uint16_t lanes[kLanes] = {};
  if (count < kLanes) {
    for (int i = 0; i < count; ++i) lanes[i] = p[i];
    p = lanes;
  }
  const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return {_mm256_castsi256_ps(_mm256_or_si256(low, _mm256_set1_epi32(0x4b000000)))};
}

// The lower lanes from p, the upper lanes from q: reads half a vector each.
static inline Vec load_halves(const float* p, const float* q) {
  return {_mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(q), 1)};
}
static inline Vec swap_halves(Vec a) { return {_mm256_permute2f128_ps(a.v, a.v, 1)}; }

// Transposes rows and columns.
static inline void transpose(Vec (&m)[kLanes]) {
  __m256 a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_ps(m[i].v, m[i + 1].v);
    a[i + 1] = _mm256_unpackhi_ps(m[i].v, m[i + 1].v);
  }
  for (int i = 0; i < 8; i += 4) {
    b[i] = _mm256_shuffle_ps(a[i], a[i + 2], 0x44);
    b[i + 1] = _mm256_shuffle_ps(a[i], a[i + 2], 0xee);
    b[i + 2] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0x44);
    b[i + 3] = _mm256_shuffle_ps(a[i + 1], a[i + 3], 0xee);
  }
  for (int i = 0; i < 4; ++i) {
    m[i].v = _mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
    m[i + 4].v = _mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
  }
}

}  // namespace avx2
}  // namespace replk

#endif  // REPLK_CPU_SIMD_AVX2_H_
