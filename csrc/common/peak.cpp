// Measures the multiply-add peak of this machine: the roofline of every direct method.
#include <chrono>
#include <cstdint>
#include <mutex>

#include "common/parallel.h"
#include "common/per_isa.h"
#include "replk/dwconv2d.h"

namespace replk {

REPLK_DECLARE_PER_ISA(int64_t multiply_add_burst(float* sink);)

namespace {

using Burst = int64_t (*)(float*);
using Clock = std::chrono::steady_clock;

struct PeakMeasurement {
  Burst burst;
  Clock::time_point end;
  std::mutex mutex;
  double gflops = 0;  // sum over threads of the best burst of each
};

void run_bursts(void* context, int64_t, int64_t, int) {
  PeakMeasurement& peak = *static_cast<PeakMeasurement*>(context);
  double best = 0;
  float sink[64];  // at least as many as any instruction set has lanes
  do {
    const Clock::time_point begin = Clock::now();
    const double operations = static_cast<double>(peak.burst(sink));
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (seconds > 0 && operations / seconds > best) best = operations / seconds;
  } while (Clock::now() < peak.end);
  const std::lock_guard<std::mutex> lock(peak.mutex);
  peak.gflops += 1e-9 * best;
}

}  // namespace
}  // namespace replk

double replk_measure_fma_peak(int32_t isa, int32_t threads, double seconds) {
  using namespace replk;
  if (isa == REPLK_ISA_AUTO) isa = best_isa();
  // The negation also rejects NaN.
  if (threads < 1 || threads > 1024 || !can_run(isa) || !(seconds >= 0 && seconds <= 60)) return 0;
  PeakMeasurement peak{REPLK_CHOOSE(isa, multiply_add_burst),
                       Clock::now() + std::chrono::microseconds(static_cast<int64_t>(1e6 * seconds)),
                       {},
                       0};
  parallel_for(threads, threads, run_bursts, &peak);
  return peak.gflops;
}
