// Sixteen float32 lanes: AVX-512 F, DQ, BW, VL.
#ifndef REPLK_CPU_SIMD_AVX512_H_
#define REPLK_CPU_SIMD_AVX512_H_

#include <immintrin.h>

#include <cstdint>

namespace replk {
namespace avx512 {

constexpr int kLanes = 16;
constexpr int kRegisters = 32;

struct Vec {
  __m512 v;
};

static inline Vec zero() { return {_mm512_setzero_ps()}; }
static inline Vec broadcast(float a) { return {_mm512_set1_ps(a)}; }
static inline Vec operator+(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Vec operator-(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Vec operator*(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Vec operator/(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }    // a b + c
static inline Vec fnma(Vec a, Vec b, Vec c) { return {_mm512_fnmadd_ps(a.v, b.v, c.v)}; }  // c - a b
// If either operand of min or max is NaN, the result is the second operand.
static inline Vec relu(Vec a) { return {_mm512_max_ps(_mm512_setzero_ps(), a.v)}; }
static inline Vec at_most(Vec a, float limit) { return {_mm512_min_ps(_mm512_set1_ps(limit), a.v)}; }  // keeps NaN
// `negative` in the lanes whose sign bit in `a` is set, `other` elsewhere.
static inline Vec by_sign(Vec a, Vec negative, Vec other) {
  return {_mm512_mask_mov_ps(other.v, _mm512_movepi32_mask(_mm512_castps_si512(a.v)), negative.v)};
}
// The number whose sign and exponent are the lowest nine bits of each lane.
static inline Vec from_low_bits(Vec a) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(a.v), 23))};
}
static inline float sum(Vec a) { return _mm512_reduce_add_ps(a.v); }

static inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
// Non-temporal store; p is aligned to the vector.
static inline void stream(float* p, Vec a) { _mm512_stream_ps(p, a.v); }
static inline void stream_fence() { _mm_sfence(); }

static inline Vec from_bfloat16(__m256i bits) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
static inline __m256i to_bfloat16(Vec a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, is_nan, quiet), 16));
}
static inline Vec load(const uint16_t* p) {
  return from_bfloat16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline void store(uint16_t* p, Vec a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), to_bfloat16(a)); }

// Prefetches any address into the second-level cache.
static inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }

// The first `count` lanes, 0 to kLanes: no other element is accessed, and the other lanes of a load are zero.
static inline __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1u); }
static inline Vec load_first(const float* p, int count) { return {_mm512_maskz_loadu_ps(first(count), p)}; }
static inline void store_first(float* p, Vec a, int count) { _mm512_mask_storeu_ps(p, first(count), a.v); }
static inline Vec load_first(const uint16_t* p, int count) {
  return from_bfloat16(_mm256_maskz_loadu_epi16(first(count), p));
}
static inline void store_first(uint16_t* p, Vec a, int count) {
  _mm256_mask_storeu_epi16(p, first(count), to_bfloat16(a));
}
// Lanes [begin, end) of the vector at p; only those lanes need to be inside the array.
static inline Vec load_between(const float* p, int begin, int end) {
  return {_mm512_maskz_loadu_ps(static_cast<__mmask16>(first(end) & ~first(begin)), p)};
}
static inline Vec load_between(const uint16_t* p, int begin, int end) {
  return from_bfloat16(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(first(end) & ~first(begin)), p));
}

// The lowest 16 bits of each lane, of all lanes or of the first `count`.
static inline void store_low_bits(uint16_t* p, Vec a, int count) {
  _mm256_mask_storeu_epi16(p, first(count), _mm512_cvtepi32_epi16(_mm512_castps_si512(a.v)));
}
// 2^23 plus the integer at p for each lane, 2^23 for lanes from `count` on.
static inline Vec load_low_bits(const uint16_t* p, int count) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first(count), p));
  return {_mm512_castsi512_ps(_mm512_or_si512(low, _mm512_set1_epi32(0x4b000000)))};
}

// The lower lanes from p, the upper lanes from q: reads half a vector each.
static inline Vec load_halves(const float* p, const float* q) {
  return {_mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(p)), _mm256_loadu_ps(q), 1)};
}
static inline Vec swap_halves(Vec a) { return {_mm512_shuffle_f32x4(a.v, a.v, 0x4e)}; }

// Transposes rows and columns.
static inline void transpose(Vec (&m)[kLanes]) {
  __m512 a[16], b[16];
  for (int i = 0; i < 16; i += 2) {
    a[i] = _mm512_unpacklo_ps(m[i].v, m[i + 1].v);
    a[i + 1] = _mm512_unpackhi_ps(m[i].v, m[i + 1].v);
  }
  for (int i = 0; i < 16; i += 4) {
    const __m512d p = _mm512_castps_pd(a[i]), q = _mm512_castps_pd(a[i + 1]);
    const __m512d r = _mm512_castps_pd(a[i + 2]), s = _mm512_castps_pd(a[i + 3]);
    b[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(p, r));
    b[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(p, r));
    b[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(q, s));
    b[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(q, s));
  }
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
    a[i + 4] = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
    a[i + 8] = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
  }
  for (int i = 0; i < 8; ++i) {
    m[i].v = _mm512_shuffle_f32x4(a[i], a[i + 8], 0x88);
    m[i + 8].v = _mm512_shuffle_f32x4(a[i], a[i + 8], 0xdd);
  }
}

// Loads and transposes rows that are `stride` elements apart. Loading the quarters of a vector from four rows leaves
// only two rounds of shuffles.
static inline void load_transposed(Vec (&m)[kLanes], const float* p, int64_t stride) {
  for (int q = 0; q < 4; ++q) {
    __m512 a[4];
    for (int i = 0; i < 4; ++i) {
      const float* row = p + 4 * q + i * stride;
      a[i] = _mm512_castps128_ps512(_mm_loadu_ps(row));
      a[i] = _mm512_mask_broadcast_f32x4(a[i], 0x00f0, _mm_loadu_ps(row + 4 * stride));
      a[i] = _mm512_mask_broadcast_f32x4(a[i], 0x0f00, _mm_loadu_ps(row + 8 * stride));
      a[i] = _mm512_mask_broadcast_f32x4(a[i], 0xf000, _mm_loadu_ps(row + 12 * stride));
    }
    const __m512d r = _mm512_castps_pd(_mm512_unpacklo_ps(a[0], a[1])),
                  s = _mm512_castps_pd(_mm512_unpackhi_ps(a[0], a[1]));
    const __m512d t = _mm512_castps_pd(_mm512_unpacklo_ps(a[2], a[3])),
                  u = _mm512_castps_pd(_mm512_unpackhi_ps(a[2], a[3]));
    m[4 * q].v = _mm512_castpd_ps(_mm512_unpacklo_pd(r, t));
    m[4 * q + 1].v = _mm512_castpd_ps(_mm512_unpackhi_pd(r, t));
    m[4 * q + 2].v = _mm512_castpd_ps(_mm512_unpacklo_pd(s, u));
    m[4 * q + 3].v = _mm512_castpd_ps(_mm512_unpackhi_pd(s, u));
  }
}

}  // namespace avx512
}  // namespace replk

#endif  // REPLK_CPU_SIMD_AVX512_H_
