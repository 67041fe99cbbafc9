// The one place that goes from a problem and an instruction set to a method: the one whose estimated time is least.
//
// A crossover in K alone would have to be tabled for every plane, batch and shape of kernel. Instead each method's time
// is a few rates times counted work, and the rates are the table. Measured on 2 cores of Zen 4, one thread, over planes
// from 7 to 256 and K from 3 to 31 (`replk-probe bench --sweep` shows how it does): the estimates are within a quarter
// of the times nearly everywhere, and where methods cross, either serves. Transforms count 6 % more than they take
// alone: in a network, whose other layers empty the caches, they suffer more than sums do.
#include "common/dispatch.h"

#include <initializer_list>

#include "common/cpuid.h"

namespace replk {
namespace {

struct Methods {
  const Method *direct, *fft, *lanes, *lanes_fft;  // by replk_pass
};

Methods methods_of(int32_t isa) {
#if REPLK_HAS_AVX512
  if (isa == REPLK_ISA_AVX512)
    return {avx512::direct_methods, avx512::fft_methods, avx512::lanes_methods, avx512::lanes_fft_methods};
#endif
#if REPLK_HAS_AVX2
  if (isa == REPLK_ISA_AVX2)
    return {avx2::direct_methods, avx2::fft_methods, avx2::lanes_methods, avx2::lanes_fft_methods};
#endif
  (void)isa;
  return {portable::direct_methods, portable::fft_methods, portable::lanes_methods, portable::lanes_fft_methods};
}

const Method* method_of(int32_t pass, int32_t isa, int32_t method) {
  if (isa < REPLK_ISA_PORTABLE || isa > best_isa()) return nullptr;
  const Methods methods = methods_of(isa);
  const Method* found = method == REPLK_METHOD_DIRECT      ? methods.direct + pass
                        : method == REPLK_METHOD_FFT       ? methods.fft + pass
                        : method == REPLK_METHOD_LANES     ? methods.lanes + pass
                        : method == REPLK_METHOD_LANES_FFT ? methods.lanes_fft + pass
                        : method == REPLK_METHOD_REFERENCE ? &reference_method
                                                           : nullptr;
  return found && found->run ? found : nullptr;
}

// Nanoseconds of one thread.
struct Rates {
  double fft;            // per vector operation, counted in cpu/fft/tiles.h
  double direct_plane;   // per plane
  double direct_result;  // per result: the padded copy, the epilogue
  double direct_tap;     // per result and tap that meets the plane's rows
  double lanes_result;   // per result: turning the planes, the epilogue
  double lanes_pair;     // per pair of result and tap that meet
  double lanes_weight;   // per tap of a channel: turning the weight
  double lanes_fft;      // per vector operation, counted in cpu/lanes_fft.cpp
};

// By replk_isa and whether it is the weight gradient.
constexpr Rates kRates[4][2] = {
    {},
    {{0.200, 150, 1.00, 0.0450, 1.50, 0.060, 0.30, 0.27},
     {0.200, 150, 1.00, 0.0500, 1.50, 0.065, 0.30, 0}},  // portable
    {{0.130, 90, 0.20, 0.0204, 0.70, 0.022, 0.08, 0.183}, {0.125, 100, 0.12, 0.0200, 0.70, 0.024, 0.12, 0}},  // AVX2
    {{0.180, 60, 0.12, 0.0184, 0.40, 0.017, 0.11, 0.29}, {0.170, 70, 0.22, 0.0195, 0.43, 0.019, 0.12, 0}},    // AVX-512
};
constexpr int64_t kLanesOf[4] = {1, 4, 8, 16};

// Pairs of a result and a tap along one axis that meet inside the plane.
double pairs(int64_t size, int64_t taps) {
  const int64_t reach = taps / 2 < size - 1 ? taps / 2 : size - 1;
  return static_cast<double>(size * (2 * reach + 1) - reach * (reach + 1));
}

double rounded_up(int64_t value, int64_t multiple) {
  return static_cast<double>((value + multiple - 1) / multiple * multiple);
}

// Taps that can meet the plane at all.
double met_taps(const replk_problem& p) {
  const auto met = [](int64_t size, int64_t taps) { return taps < 2 * size - 1 ? taps : 2 * size - 1; };
  return static_cast<double>(met(p.h, p.kh) * met(p.w, p.kw));
}

double estimated_time(const replk_problem& p, const replk_plan& plan, const Method& method) {
  const Rates& rates = kRates[plan.isa][p.pass == REPLK_GRAD_WEIGHT];
  const int64_t lanes = kLanesOf[plan.isa];
  const double n = static_cast<double>(p.n), c = static_cast<double>(p.c);
  const double results = static_cast<double>(p.h * p.w);
  if (plan.method == REPLK_METHOD_FFT) return rates.fft * method.operations(p, plan);
  if (plan.method == REPLK_METHOD_LANES_FFT) return rates.lanes_fft * method.operations(p, plan);
  if (plan.method == REPLK_METHOD_DIRECT) {
    const double multiplied = pairs(p.h, p.kh) * rounded_up(p.w, lanes) * static_cast<double>(p.kw);
    return n * c * (rates.direct_plane + rates.direct_result * results + rates.direct_tap * multiplied);
  }
  const double met = pairs(p.h, p.kh) * pairs(p.w, p.kw);
  return rounded_up(p.c, lanes) *
         (n * (rates.lanes_result * results + rates.lanes_pair * met) + rates.lanes_weight * met_taps(p));
}

}  // namespace

const Method* find_method(const replk_problem& problem, const replk_plan& plan) {
  return method_of(problem.pass, plan.isa, plan.method);
}

bool choose(const replk_problem& problem, replk_plan& plan) {
  plan = replk_plan{};
  plan.isa = problem.isa == REPLK_ISA_AUTO ? best_isa() : problem.isa;
  const bool is_forced = problem.method != REPLK_METHOD_AUTO;
  double least = 0;
  for (const int32_t candidate :
       {REPLK_METHOD_DIRECT, REPLK_METHOD_FFT, REPLK_METHOD_LANES, REPLK_METHOD_LANES_FFT, REPLK_METHOD_REFERENCE}) {
    // The oracle is for those who ask for it.
    if (is_forced ? candidate != problem.method : candidate == REPLK_METHOD_REFERENCE) continue;
    const Method* method = method_of(problem.pass, plan.isa, candidate);
    replk_plan offer = plan;
    offer.method = candidate;
    if (!method || !method->plan(problem, offer)) continue;
    const double time = is_forced ? 0 : estimated_time(problem, offer, *method);
    if (plan.method != REPLK_METHOD_AUTO && time >= least) continue;
    least = time;
    plan = offer;
  }
  if (plan.method == REPLK_METHOD_AUTO && !is_forced) plan.method = REPLK_METHOD_HOST;
  return plan.method != REPLK_METHOD_AUTO;
}

}  // namespace replk
