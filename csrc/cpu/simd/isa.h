// The SIMD layer of the instruction set that this file is compiled for: REPLK_ISA is its name.
#ifndef REPLK_CPU_SIMD_ISA_H_
#define REPLK_CPU_SIMD_ISA_H_

#define REPLK_STRINGIFY(text) #text
#define REPLK_HEADER(name) REPLK_STRINGIFY(name.h)
// clang-format off: spaces would become part of the path
#include REPLK_HEADER(cpu/simd/REPLK_ISA)
// clang-format on

#endif  // REPLK_CPU_SIMD_ISA_H_
