// Declaring and choosing what is compiled once for each instruction set.
#ifndef REPLK_COMMON_PER_ISA_H_
#define REPLK_COMMON_PER_ISA_H_

#include "common/cpuid.h"

#if REPLK_HAS_AVX2
#define REPLK_WITH_AVX2(...) __VA_ARGS__
#else
#define REPLK_WITH_AVX2(...)
#endif
#if REPLK_HAS_AVX512
#define REPLK_WITH_AVX512(...) __VA_ARGS__
#else
#define REPLK_WITH_AVX512(...)
#endif
#if REPLK_HAS_NEON
#define REPLK_WITH_NEON(...) __VA_ARGS__
#else
#define REPLK_WITH_NEON(...)
#endif

// Declarations in the namespace of each instruction set that the library contains.
#define REPLK_DECLARE_PER_ISA(...)                 \
  namespace portable {                             \
  __VA_ARGS__                                      \
  }                                                \
  REPLK_WITH_AVX2(namespace avx2{__VA_ARGS__})     \
  REPLK_WITH_AVX512(namespace avx512{__VA_ARGS__}) \
  REPLK_WITH_NEON(namespace neon{__VA_ARGS__})

// The address of `name` in the namespace of an instruction set for which can_run is true.
#define REPLK_CHOOSE(isa, name)                                       \
  (REPLK_WITH_AVX512((isa) == REPLK_ISA_AVX512 ? &avx512::name :)     \
       REPLK_WITH_AVX2((isa) == REPLK_ISA_AVX2 ? &avx2::name :)       \
           REPLK_WITH_NEON((isa) == REPLK_ISA_NEON ? &neon::name :) & \
   portable::name)

#endif  // REPLK_COMMON_PER_ISA_H_
