// A burst of independent fused multiply-adds from registers: an upper bound for all code of this instruction set.
//
//   a[i] <- a[i] m + s      kChains chains, kSteps steps
//
// Twelve chains cover two units of latency 4 (which need 8) and fit 16 registers together with both operands; 24 cover
// the four units of large Arm cores (which need 16) and fit 32 registers. The loops over the chains are unrolled,
// because the chains would otherwise be in memory.
#include <cstdint>

#include "cpu/common/unroll.h"
#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {

// Returns the number of floating-point operations. Writing the results to `sink` [kLanes] keeps the compiler from
// removing them.
int64_t multiply_add_burst(float* sink) {
  constexpr int kChains = kRegisters >= 32 ? 24 : 12, kSteps = 1 << 14;
  const volatile float factor = 0.9990234375f, summand = 0.0009765625f;  // converges to 1: no subnormal numbers
  const Vec m = broadcast(factor), s = broadcast(summand);
  Vec a[kChains];
  REPLK_UNROLL
  for (int i = 0; i < kChains; ++i) a[i] = broadcast(static_cast<float>(i) * factor);
  for (int step = 0; step < kSteps; ++step) {
    REPLK_UNROLL
    for (int i = 0; i < kChains; ++i) a[i] = fma(a[i], m, s);
  }
  Vec total = zero();
  REPLK_UNROLL
  for (int i = 0; i < kChains; ++i) total = total + a[i];
  store(sink, total);
  return int64_t{2} * kLanes * kChains * kSteps;
}

}  // namespace REPLK_ISA
}  // namespace replk
