// Unrolls loops over arrays of vectors, so that the arrays can be kept in registers.
#ifndef REPLK_CPU_COMMON_UNROLL_H_
#define REPLK_CPU_COMMON_UNROLL_H_

#include "cpu/simd/isa.h"

#if defined(__clang__)
#define REPLK_UNROLL _Pragma("clang loop unroll(full)")
#define REPLK_INLINE inline __attribute__((always_inline))
#elif defined(__GNUC__)
#define REPLK_UNROLL _Pragma("GCC unroll 32")
#define REPLK_INLINE inline __attribute__((always_inline))
#else
#define REPLK_UNROLL
#define REPLK_INLINE inline
#endif

namespace replk {
namespace REPLK_ISA {

// Hides the value of p from the compiler, which would otherwise keep earlier loads in registers for the next position
// and spill accumulators.
static REPLK_INLINE const float* opaque(const float* p) {
#if defined(__GNUC__)
  __asm__("" : "+r"(p));
#endif
  return p;
}

// Keeps a vector in a register; the compiler may otherwise load it for each product, as a memory operand.
static REPLK_INLINE Vec in_register(Vec a) {
#if defined(__GNUC__) && defined(__x86_64__)
  __asm__("" : "+v"(a.v));
#endif
  return a;
}

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_COMMON_UNROLL_H_
