// The choice of method for a problem and an instruction set: the one with the lowest estimated time.
//
// A threshold on K alone would have to be tabulated for every plane, batch and kernel shape. Instead, each method's
// time is estimated as counted work times measured rates. The rates were measured on 2 cores of Zen 4, one thread, for
// planes from 7 to 256 and K from 3 to 31 (`replk-probe bench --sweep`): estimates are within a quarter of the times
// nearly everywhere, and where two methods cross, either is good. Transforms count 6 % more than they take alone: in a
// network, whose other layers evict the caches, they lose more than direct sums do. For the same reason, a prepared
// weight is counted as read from memory.
#include "common/dispatch.h"

#include <cstdio>

#include "common/cpuid.h"

namespace replk {
namespace {

struct MethodEntry {
  int32_t method;
  const char* name;
  int32_t uses_fft;
  const Method* functions[5];  // by replk_isa, each [3] by replk_pass; null if not compiled
};

#if REPLK_HAS_AVX2
#define REPLK_AVX2(name) avx2::name
#else
#define REPLK_AVX2(name) nullptr
#endif
#if REPLK_HAS_AVX512
#define REPLK_AVX512(name) avx512::name
#else
#define REPLK_AVX512(name) nullptr
#endif
#if REPLK_HAS_NEON
#define REPLK_NEON(name) neon::name
#else
#define REPLK_NEON(name) nullptr
#endif
#define REPLK_ENTRY(id, file, name, uses_fft)                                                    \
  {REPLK_METHOD_##id,                                                                            \
   name,                                                                                         \
   uses_fft,                                                                                     \
   {nullptr, portable::file##_methods, REPLK_AVX2(file##_methods), REPLK_AVX512(file##_methods), \
    REPLK_NEON(file##_methods)}},

// The only list of methods and instruction sets: dispatch, tests and benchmarks read it (replk_dwconv2d_kernel).
constexpr MethodEntry kMethods[] = {
    REPLK_FOR_EACH_METHOD(REPLK_ENTRY)  //
    {REPLK_METHOD_REFERENCE,
     "reference",
     0,
     {nullptr, reference_methods, reference_methods, reference_methods, reference_methods}},
};
constexpr const char* kIsaNames[5] = {"auto", "portable", "avx2", "avx512", "neon"};
constexpr const char* kDtypeNames[2] = {"float32", "bfloat16"};
constexpr const char* kPassNames[3] = {"forward", "grad_input", "grad_weight"};

const Method* functions_of(const MethodEntry& entry, int32_t isa, int32_t pass) {
  if (!can_run(isa) || !entry.functions[isa]) return nullptr;
  const Method* functions = entry.functions[isa] + pass;
  return functions->run ? functions : nullptr;
}

// Nanoseconds of one thread.
struct Rates {
  double fft;             // per vector operation, as counted in cpu/fft/tiles.h
  double direct_plane;    // per plane
  double direct_result;   // per result: padded copy and epilogue
  double direct_tap;      // per result and tap that overlaps the plane's rows
  double blocked_result;  // per result: transposes and epilogue
  double blocked_pair;    // per pair of result and tap that overlap, or of which one is padding
  double blocked_weight;  // per tap of a channel: transpose of the weight
  double blocked_pfa;     // per vector operation, as counted in cpu/blocked_pfa.cpp
  double blocked_pixel;   // blocked_result of channels-last tensors
};

// By replk_isa and whether it is the weight gradient.
constexpr Rates kRates[5][2] = {
    {},
    {{0.200, 150, 1.00, 0.0450, 1.50, 0.060, 0.30, 0.27, 1.00},
     {0.200, 150, 1.00, 0.0500, 1.50, 0.065, 0.30, 0, 0}},  // portable
    {{0.130, 90, 0.20, 0.0204, 0.70, 0.022, 0.08, 0.183, 0.30},
     {0.125, 100, 0.12, 0.0200, 0.70, 0.024, 0.12, 0, 0}},  // AVX2
    {{0.180, 60, 0.12, 0.0184, 0.32, 0.017, 0.11, 0.29, 0.14},
     {0.170, 70, 0.22, 0.0195, 0.43, 0.019, 0.12, 0, 0}},  // AVX-512
    // NEON: not measured, but derived from AVX2 by the number of lanes: a vector operation takes the same time.
    {{0.130, 90, 0.40, 0.0408, 1.40, 0.044, 0.16, 0.183, 0.60}, {0.125, 100, 0.24, 0.0400, 1.40, 0.048, 0.24, 0, 0}},
};
// Nanoseconds for a byte of a prepared weight: 20 GB/s, what one core of a server reads from memory, not a fit. Without
// it, transforms were chosen for kernels from 5x5 to 9x9 on planes from 14 to 64 where direct or blocked sums are
// faster by 6 to 40 % if the weight is not in the caches (9 of 16 shapes on Zen 4; for 96 channels of 56x56 and 7x7
// also on an Intel Xeon with AMX); if it is, those take at most 20 % longer than the transforms.
constexpr double kPreparedByte = 0.05;
// Nanoseconds of the host's conversion of a tensor between the memory formats: of the call, and of an element.
constexpr double kConversion = 10000, kConvertedElement = 0.55;
constexpr int64_t kLanesOf[5] = {1, 4, 8, 16, 4};

// Pairs of a result and a tap that overlap inside the plane, along one axis.
double pairs(int64_t size, int64_t taps) {
  const int64_t radius = taps / 2 < size - 1 ? taps / 2 : size - 1;
  return static_cast<double>(size * (2 * radius + 1) - radius * (radius + 1));
}

double rounded_up(int64_t value, int64_t multiple) {
  return static_cast<double>((value + multiple - 1) / multiple * multiple);
}

// Taps that overlap the plane for at least one result.
double overlapping_taps(const replk_problem& p) {
  const auto overlapping = [](int64_t size, int64_t taps) { return taps < 2 * size - 1 ? taps : 2 * size - 1; };
  return static_cast<double>(overlapping(p.h, p.kh) * overlapping(p.w, p.kw));
}

// The host's conversion of channels-last tensors for a method that takes planes only.
double conversion_time(const replk_problem& p, const replk_plan& plan) {
  if (!p.channels_last || plan.channels_last) return 0;
  return 2 * (kConversion + kConvertedElement * static_cast<double>(p.n * p.c * p.h * p.w));
}

double estimated_time(const replk_problem& p, const replk_plan& plan, const Method& method) {
  const Rates& rates = kRates[plan.isa][p.pass == REPLK_GRAD_WEIGHT];
  const int64_t lanes = kLanesOf[plan.isa];
  const double n = static_cast<double>(p.n), c = static_cast<double>(p.c);
  const double results = static_cast<double>(p.h * p.w);
  if (method.operations) {
    const double rate = plan.method == REPLK_METHOD_FFT ? rates.fft : rates.blocked_pfa;
    const int64_t read = p.prepared ? plan.packed_bytes : 0;
    return rate * method.operations(p, plan) + kPreparedByte * static_cast<double>(read);
  }
  if (plan.method == REPLK_METHOD_DIRECT) {
    const double multiplied = pairs(p.h, p.kh) * rounded_up(p.w, lanes) * static_cast<double>(p.kw);
    return n * c * (rates.direct_plane + rates.direct_result * results + rates.direct_tap * multiplied);
  }
  // On planes wider than one block, short rows of taps are multiplied by the padding too (cpu/blocked/windows.h).
  const bool has_windows = p.pass != REPLK_GRAD_WEIGHT && p.kw <= 13 && p.w > 14;
  const double overlaps = pairs(p.h, p.kh) * (has_windows ? static_cast<double>(p.w * p.kw) : pairs(p.w, p.kw));
  const double result = plan.channels_last ? rates.blocked_pixel : rates.blocked_result;
  return rounded_up(p.c, lanes) *
         (n * (result * results + rates.blocked_pair * overlaps) + rates.blocked_weight * overlapping_taps(p));
}

}  // namespace

const Method* find_method(const replk_problem& problem, const replk_plan& plan) {
  for (const MethodEntry& entry : kMethods) {
    if (entry.method == plan.method) return functions_of(entry, plan.isa, problem.pass);
  }
  return nullptr;
}

bool describe_kernel(int32_t index, replk_kernel& kernel) {
  for (const MethodEntry& entry : kMethods) {
    for (int32_t isa = REPLK_ISA_PORTABLE; isa <= REPLK_ISA_NEON; ++isa) {
      for (int32_t pass = REPLK_FORWARD; pass <= REPLK_GRAD_WEIGHT; ++pass) {
        if (!functions_of(entry, isa, pass)) continue;
        for (int32_t dtype = REPLK_F32; dtype <= REPLK_BF16; ++dtype) {
          if (index-- != 0) continue;
          kernel = {{}, entry.method, isa, dtype, pass, entry.uses_fft};
          std::snprintf(kernel.name, sizeof kernel.name, "%s %s %s %s", entry.name, kIsaNames[isa], kDtypeNames[dtype],
                        kPassNames[pass]);
          return true;
        }
      }
    }
  }
  return false;
}

bool choose(const replk_problem& problem, replk_plan& plan) {
  plan = replk_plan{};
  plan.isa = problem.isa == REPLK_ISA_AUTO ? best_isa() : problem.isa;
  const bool is_requested = problem.method != REPLK_METHOD_AUTO;
  double least = 0;
  for (const MethodEntry& entry : kMethods) {
    // The reference is used only on request.
    if (is_requested ? entry.method != problem.method : entry.method == REPLK_METHOD_REFERENCE) continue;
    const Method* method = functions_of(entry, plan.isa, problem.pass);
    replk_plan candidate{};
    candidate.method = entry.method;
    candidate.isa = plan.isa;
    if (!method || !method->plan(problem, candidate)) continue;
    const double time =
        is_requested ? 0 : estimated_time(problem, candidate, *method) + conversion_time(problem, candidate);
    if (plan.method != REPLK_METHOD_AUTO && time >= least) continue;
    least = time;
    plan = candidate;
  }
  if (plan.method == REPLK_METHOD_AUTO && !is_requested) plan.method = REPLK_METHOD_HOST;
  return plan.method != REPLK_METHOD_AUTO;
}

}  // namespace replk
