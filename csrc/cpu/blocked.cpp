// The channel-blocked method: the lanes of a vector are neighboring channels, for planes that are too small to fill
// vectors with columns, and for channels-last tensors, which need no transpose.
#include "common/task.h"
#include "cpu/blocked/convolve.h"
#include "cpu/blocked/grad_weight.h"

namespace replk {
namespace REPLK_ISA {
namespace {

// Bytes: x, y and the weight of a group of channels should fit the second-level cache. Of a band of a channels-last
// tensor, only a strip is in use at a time.
constexpr int64_t kMaxScratch = 512 * 1024, kMaxBand = 2048 * 1024;

int64_t scratch_bytes(const replk_problem& p, const replk_plan& plan) {
  return round_up(BlockedLayout(p, plan).size * int64_t{sizeof(float)}, 64);
}

bool plan_correlate(const replk_problem& p, replk_plan& plan) {
  return p.h * p.w <= 64 * 64 && scratch_bytes(p, plan) <= kMaxScratch;
}

bool plan_convolve(const replk_problem& p, replk_plan& plan) {
  plan.channels_last = p.channels_last;
  if (p.channels_last) return scratch_bytes(p, plan) <= kMaxBand;
  return p.h * p.w <= 64 * 64 && scratch_bytes(p, plan) <= kMaxScratch;
}

int64_t convolve_item_count(const replk_problem& p, const replk_plan& plan) {
  return p.h * p.w == 0 ? 0 : p.n * divide_up(p.c, kLanes) * BlockedLayout(p, plan).bands;
}

int64_t correlate_item_count(const replk_problem& p, const replk_plan&) { return divide_up(p.c, kLanes); }

void run_convolve(const Task& task, int64_t begin, int64_t end, void* scratch) {
  float* memory = static_cast<float*>(scratch);
  if (task.problem.dtype == REPLK_F32) {
    convolve_groups<float>(task, begin, end, memory);
  } else {
    convolve_groups<uint16_t>(task, begin, end, memory);
  }
}

void run_correlate(const Task& task, int64_t begin, int64_t end, void* scratch) {
  float* memory = static_cast<float*>(scratch);
  if (task.problem.dtype == REPLK_F32) {
    correlate_groups<float>(task, begin, end, memory);
  } else {
    correlate_groups<uint16_t>(task, begin, end, memory);
  }
}

}  // namespace

const Method blocked_methods[3] = {
    {plan_convolve, scratch_bytes, convolve_item_count, run_convolve, nullptr, nullptr},
    {plan_convolve, scratch_bytes, convolve_item_count, run_convolve, nullptr, nullptr},
    {plan_correlate, scratch_bytes, correlate_item_count, run_correlate, nullptr, nullptr},
};

}  // namespace REPLK_ISA
}  // namespace replk
