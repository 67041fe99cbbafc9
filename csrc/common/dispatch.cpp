// The one table from (pass, dtype, n, c, h, w, kh, kw, isa) to method and tile.
#include "common/dispatch.h"

#include "common/cpuid.h"

namespace replk {
namespace {

struct Methods {
  const Method *direct, *fft, *lanes;  // by replk_pass
};

Methods methods_of(int32_t isa) {
#if REPLK_HAS_AVX512
  if (isa == REPLK_ISA_AVX512) return {avx512::direct_methods, avx512::fft_methods, avx512::lanes_methods};
#endif
#if REPLK_HAS_AVX2
  if (isa == REPLK_ISA_AVX2) return {avx2::direct_methods, avx2::fft_methods, avx2::lanes_methods};
#endif
  (void)isa;
  return {portable::direct_methods, portable::fft_methods, portable::lanes_methods};
}

const Method* method_of(int32_t pass, int32_t isa, int32_t method) {
  if (isa < REPLK_ISA_PORTABLE || isa > best_isa()) return nullptr;
  const Methods methods = methods_of(isa);
  const Method* found = method == REPLK_METHOD_DIRECT      ? methods.direct + pass
                        : method == REPLK_METHOD_FFT       ? methods.fft + pass
                        : method == REPLK_METHOD_LANES     ? methods.lanes + pass
                        : method == REPLK_METHOD_REFERENCE ? &reference_method
                                                           : nullptr;
  return found && found->run ? found : nullptr;
}

// Measured crossovers; see the comment at each line. (To be filled from the benchmark's sweep.)
int32_t preferred_method(const replk_problem& p) {
  if (p.h * p.w <= 14 * 14 && p.c >= 8) return REPLK_METHOD_LANES;
  const int64_t taps = p.kh * p.kw;
  return taps >= 13 * 13 ? REPLK_METHOD_FFT : REPLK_METHOD_DIRECT;
}

}  // namespace

const Method* find_method(const replk_problem& problem, const replk_plan& plan) {
  return method_of(problem.pass, plan.isa, plan.method);
}

bool choose(const replk_problem& problem, replk_plan& plan) {
  plan = replk_plan{};
  plan.isa = problem.isa == REPLK_ISA_AUTO ? best_isa() : problem.isa;
  const bool is_forced = problem.method != REPLK_METHOD_AUTO;
  const int32_t wanted = is_forced ? problem.method : preferred_method(problem);
  const int32_t order[] = {wanted, REPLK_METHOD_FFT, REPLK_METHOD_DIRECT, REPLK_METHOD_REFERENCE};
  for (const int32_t candidate : order) {
    const Method* method = method_of(problem.pass, plan.isa, candidate);
    if (method && method->plan(problem, plan)) {
      plan.method = candidate;
      return true;
    }
    if (is_forced) return false;
  }
  return false;
}

}  // namespace replk
