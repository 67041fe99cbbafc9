// The instruction sets that the CPU and the operating system support.
#ifndef REPLK_COMMON_CPUID_H_
#define REPLK_COMMON_CPUID_H_

#include <cstdint>

#include "replk/dwconv2d.h"

// Which kernels the library contains. The build defines REPLK_NO_<ISA> if the compiler does not support one.
#if (defined(__x86_64__) || defined(_M_X64)) && !defined(REPLK_NO_AVX2)
#define REPLK_HAS_AVX2 1
#else
#define REPLK_HAS_AVX2 0
#endif
#if (defined(__x86_64__) || defined(_M_X64)) && !defined(REPLK_NO_AVX512)
#define REPLK_HAS_AVX512 1
#else
#define REPLK_HAS_AVX512 0
#endif
#if defined(__aarch64__) && !defined(REPLK_NO_NEON)
#define REPLK_HAS_NEON 1
#else
#define REPLK_HAS_NEON 0
#endif

namespace replk {

// The best replk_isa that the CPU, the operating system and the library support.
replk_isa best_isa();

// Whether kernels of this replk_isa can run: those of another architecture cannot, whatever the best one is.
bool can_run(int32_t isa);

}  // namespace replk

#endif  // REPLK_COMMON_CPUID_H_
