// Which instruction sets this CPU and this operating system offer.
#ifndef REPLK_COMMON_CPUID_H_
#define REPLK_COMMON_CPUID_H_

#include "replk/dwconv2d.h"

// What this library has kernels for. The build says REPLK_NO_<ISA> where the compiler does not know an instruction set.
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

namespace replk {

// The best replk_isa that may be executed here and that there are kernels for.
replk_isa best_isa();

}  // namespace replk

#endif  // REPLK_COMMON_CPUID_H_
