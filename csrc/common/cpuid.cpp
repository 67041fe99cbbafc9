#include "common/cpuid.h"

#if defined(__x86_64__) || defined(_M_X64)
#if defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace replk {
namespace {

#if defined(__x86_64__) || defined(_M_X64)

struct Registers {
  uint32_t eax, ebx, ecx, edx;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r{};
#if defined(_MSC_VER)
  int found[4];
  __cpuidex(found, static_cast<int>(leaf), static_cast<int>(subleaf));
  r = {static_cast<uint32_t>(found[0]), static_cast<uint32_t>(found[1]), static_cast<uint32_t>(found[2]),
       static_cast<uint32_t>(found[3])};
#else
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
  return r;
}

// The register files that the operating system saves (XCR0).
uint64_t saved_state() {
#if defined(_MSC_VER)
  return _xgetbv(0);
#else
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

replk_isa detect() {
  constexpr uint32_t kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28;                         // leaf 1, ecx
  constexpr uint32_t kAvx2 = 1u << 5, kAvx512 = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F DQ BW VL
  constexpr uint64_t kYmm = 0x06, kZmm = 0xe6;
  if (cpuid(0, 0).eax < 7) return REPLK_ISA_PORTABLE;
  const uint32_t basic = cpuid(1, 0).ecx, extended = cpuid(7, 0).ebx;
  if ((basic & (kFma | kOsxsave | kAvx)) != (kFma | kOsxsave | kAvx)) return REPLK_ISA_PORTABLE;
  const uint64_t saved = saved_state();
  if ((saved & kYmm) != kYmm || !(extended & kAvx2)) return REPLK_ISA_PORTABLE;
  return (saved & kZmm) == kZmm && (extended & kAvx512) == kAvx512 ? REPLK_ISA_AVX512 : REPLK_ISA_AVX2;
}

#else

replk_isa detect() { return REPLK_ISA_PORTABLE; }

#endif

}  // namespace

replk_isa best_isa() {
  static const replk_isa best = [] {
    if (REPLK_HAS_NEON) return REPLK_ISA_NEON;  // every CPU of this architecture has it
    const replk_isa offered = detect();
    if (REPLK_HAS_AVX512 && offered >= REPLK_ISA_AVX512) return REPLK_ISA_AVX512;
    if (REPLK_HAS_AVX2 && offered >= REPLK_ISA_AVX2) return REPLK_ISA_AVX2;
    return REPLK_ISA_PORTABLE;
  }();
  return best;
}

bool can_run(int32_t isa) {
  if (REPLK_HAS_NEON && (isa == REPLK_ISA_AVX2 || isa == REPLK_ISA_AVX512)) return false;
  return isa >= REPLK_ISA_PORTABLE && isa <= best_isa();
}

}  // namespace replk
