// Calls every method from several threads at once, each with its own team, on shared inputs and a shared prepared
// weight, for ThreadSanitizer. All results must be bitwise equal for every number of threads.
//
// Everything runs twice: on the library's own threads, and on those of a host. `gomp_parallel` below replaces the
// host's function, because ThreadSanitizer does not understand the synchronization of libgomp and reports false races.
#include <atomic>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "replk/dwconv2d.h"
#include "tests/checked_call.h"

namespace {

constexpr int kCallers = 3, kRepeats = 2;

struct Shape {
  int64_t n, c, h, w, kh, kw;
};

// Small planes, whole planes, many tiles; fewer planes than threads, and more.
constexpr Shape kShapes[] = {{2, 9, 7, 7, 13, 13},   {1, 5, 31, 33, 7, 7},   {1, 4, 30, 36, 31, 31},
                             {2, 2, 70, 90, 15, 15}, {1, 2, 130, 65, 51, 5}, {1, 1, 150, 40, 13, 13}};

struct Operands {
  std::vector<float> input, grad, weight, packed_memory;
  float* packed = nullptr;
};

bool call(const replk_problem& problem, const replk_plan& plan, const Operands& operands, std::vector<float>& output,
          int32_t& stale) {
  std::vector<char> workspace(static_cast<size_t>(plan.workspace_bytes));
  replk_buffers buffers{};
  const bool is_weight_gradient = problem.pass == REPLK_GRAD_WEIGHT;
  buffers.input = operands.input.data();
  buffers.grad = is_weight_gradient ? operands.grad.data() : nullptr;
  buffers.weight = is_weight_gradient ? nullptr : operands.weight.data();
  buffers.output = output.data();
  buffers.packed = operands.packed;
  buffers.workspace = workspace.data();
  buffers.workspace_bytes = plan.workspace_bytes;
  const int64_t plane = problem.h * problem.w;
  for (int64_t* stride : {buffers.input_stride, buffers.grad_stride, buffers.output_stride}) {
    stride[0] = problem.c * plane;
    stride[1] = plan.channels_last ? problem.c : plane;
    stride[2] = plan.channels_last ? problem.c * problem.w : problem.w;
  }
  const bool ok = replk_dwconv2d_run(&problem, &plan, &buffers) == REPLK_OK;
  stale = buffers.packed_was_stale;
  return ok;
}

std::atomic<int> teams{0};  // number of teams that gomp_parallel has created

// Like libgomp's function: runs `work` in a team of `threads` that includes the caller.
void gomp_parallel(void (*work)(void*), void* data, unsigned threads, unsigned) {
  ++teams;
  std::vector<std::thread> team;
  for (unsigned i = 1; i < threads; ++i) team.emplace_back(work, data);
  work(data);
  for (std::thread& member : team) member.join();
}

// Runs one problem on one thread, then from several callers with 1, 2 and 3 threads each.
bool check(replk_problem problem, bool is_stale, uint64_t seed, int& ran) {
  replk_plan plan;
  if (replk_dwconv2d_plan(&problem, &plan) != REPLK_OK || plan.method == REPLK_METHOD_HOST) return true;
  ++ran;
  replk_tests::Random random(seed);
  Operands operands;
  const auto draw = [&](int64_t size) {
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) value = random.signed_unit();
    return values;
  };
  const int64_t size = problem.n * problem.c * problem.h * problem.w, taps = problem.c * problem.kh * problem.kw;
  operands.input = draw(size);
  operands.grad = draw(size);
  operands.weight = draw(taps);
  if (plan.packed_bytes > 0 && problem.pass != REPLK_GRAD_WEIGHT) {
    operands.packed_memory.resize(static_cast<size_t>(plan.packed_bytes / 4 + 32));
    const uintptr_t address = reinterpret_cast<uintptr_t>(operands.packed_memory.data());
    operands.packed = reinterpret_cast<float*>((address + 63) / 64 * 64);
    const std::vector<float> other = draw(taps);
    problem.threads = 3;
    replk_dwconv2d_plan(&problem, &plan);
    if (replk_dwconv2d_pack(&problem, &plan, (is_stale ? other : operands.weight).data(), operands.packed) !=
        REPLK_OK) {
      return false;
    }
  }
  const size_t outputs = static_cast<size_t>(problem.pass == REPLK_GRAD_WEIGHT ? taps : size);
  std::vector<float> expected(outputs);
  int32_t stale = 0;
  problem.threads = 1;
  replk_dwconv2d_plan(&problem, &plan);
  bool passed = call(problem, plan, operands, expected, stale);
  std::vector<std::thread> callers;
  std::vector<int> results(kCallers, 1);
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([&, caller] {
      replk_problem mine = problem;
      mine.threads = 1 + caller % 3;
      replk_plan own;
      std::vector<float> output(outputs);
      int32_t found_stale = 0;
      bool same = replk_dwconv2d_plan(&mine, &own) == REPLK_OK;
      for (int repeat = 0; same && repeat < kRepeats; ++repeat) {
        same = call(mine, own, operands, output, found_stale) &&
               std::memcmp(output.data(), expected.data(), outputs * sizeof(float)) == 0 &&
               found_stale == (operands.packed && is_stale ? 1 : 0);
      }
      results[static_cast<size_t>(caller)] = same;
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const int result : results) passed = passed && result;
  if (!passed) std::fprintf(stderr, "FAILED %s\n", replk_tests::describe(problem, plan).c_str());
  return passed;
}

// Runs every kernel of the best instruction set on the shapes that it supports, of which there must be at least one.
bool check_all(int& ran) {
  bool passed = true;
  uint64_t seed = 0;
  for (const replk_kernel& kernel : replk_tests::kernels()) {
    if (kernel.isa != replk_best_isa() || kernel.dtype != REPLK_F32) continue;
    const int before = ran;
    for (const Shape& s : kShapes) {
      for (const int option : {0, 1, 2, 3}) {
        const bool is_stale = option % 2 != 0;
        if (is_stale && kernel.pass == REPLK_GRAD_WEIGHT) continue;
        const replk_problem problem = {kernel.pass,
                                       kernel.dtype,
                                       REPLK_NO_ACTIVATION,
                                       kernel.method,
                                       kernel.isa,
                                       1,
                                       s.n,
                                       s.c,
                                       s.h,
                                       s.w,
                                       s.kh,
                                       s.kw,
                                       0,
                                       option / 2};
        passed = check(problem, is_stale, ++seed, ran) && passed;
      }
    }
    if (ran == before) {
      std::fprintf(stderr, "FAILED %s: supports none of the shapes\n", kernel.name);
      passed = false;
    }
  }
  return passed;
}

}  // namespace

int main() {
  int ran = 0;
  bool passed = check_all(ran);
  passed = teams == 0 && passed;
  replk_set_gomp_parallel(gomp_parallel);
  passed = check_all(ran) && teams > 0 && passed;
  std::printf("%d problems from %d callers, %s\n", ran, kCallers, passed ? "all passed" : "some FAILED");
  return passed && ran > 0 ? 0 : 1;
}
