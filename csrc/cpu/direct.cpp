// The direct method: register-blocked multiply-add over zero-padded copies of the planes.
#include "common/task.h"
#include "cpu/direct/convolve.h"
#include "cpu/direct/grad_weight.h"
#include "cpu/direct/sliding.h"

namespace replk {
namespace REPLK_ISA {
namespace {

// Bytes. A kernel whose halo alone exceeds the caches is left to other methods.
constexpr int64_t kMaxScratch = 4 << 20;

int64_t convolve_scratch(const replk_problem& p, const replk_plan&) {
  if (find_sliding(p)) return round_up(sliding_scratch(p) * int64_t{sizeof(float)}, 64);
  return round_up(ConvolveLayout(p).size * int64_t{sizeof(float)}, 64);
}

bool plan_convolve(const replk_problem& p, replk_plan& plan) { return convolve_scratch(p, plan) <= kMaxScratch; }

int64_t convolve_item_count(const replk_problem& p, const replk_plan&) {
  if (p.h * p.w == 0) return 0;
  return p.n * p.c * (find_sliding(p) ? cut_into_sliding_bands(p) : ConvolveLayout(p).bands).count();
}

void run_convolve(const Task& task, int64_t begin, int64_t end, void* scratch) {
  float* memory = static_cast<float*>(scratch);
  if (find_sliding(task.problem)) {
    sliding_items(task, begin, end, memory);
  } else if (task.problem.dtype == REPLK_F32) {
    convolve_items<float>(task, begin, end, memory);
  } else {
    convolve_items<uint16_t>(task, begin, end, memory);
  }
}

int64_t correlate_scratch(const replk_problem& p, const replk_plan&) {
  return round_up(GradWeightLayout(p).size * int64_t{sizeof(float)}, 64);
}

bool plan_correlate(const replk_problem& p, replk_plan& plan) { return correlate_scratch(p, plan) <= kMaxScratch; }

int64_t correlate_item_count(const replk_problem& p, const replk_plan&) { return p.c; }

void run_correlate(const Task& task, int64_t begin, int64_t end, void* scratch) {
  float* memory = static_cast<float*>(scratch);
  if (task.problem.dtype == REPLK_F32) {
    correlate_items<float>(task, begin, end, memory);
  } else {
    correlate_items<uint16_t>(task, begin, end, memory);
  }
}

}  // namespace

const Method direct_methods[3] = {
    {plan_convolve, convolve_scratch, convolve_item_count, run_convolve, nullptr, nullptr},
    {plan_convolve, convolve_scratch, convolve_item_count, run_convolve, nullptr, nullptr},
    {plan_correlate, correlate_scratch, correlate_item_count, run_correlate, nullptr, nullptr},
};

}  // namespace REPLK_ISA
}  // namespace replk
