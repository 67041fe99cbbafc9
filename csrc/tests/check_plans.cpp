// A plan or a prepared weight that does not belong to the problem is refused with a status, before any buffer is
// accessed: every pointer here points to an unreadable page.
#include <cstdio>
#include <vector>

#include "tests/checked_call.h"

namespace {

using replk_tests::Guarded;

int checks = 0;

bool expect(int32_t status, int32_t expected, const char* kernel, const char* what) {
  ++checks;
  if (status == expected) return true;
  std::fprintf(stderr, "FAILED %s, %s: \"%s\" instead of \"%s\"\n", kernel, what, replk_status_string(status),
               replk_status_string(expected));
  return false;
}

struct Changed {
  const char* name;
  replk_problem problem;
};

// Valid problems that differ from `p` in one field.
std::vector<Changed> changed_problems(const replk_problem& p) {
  std::vector<Changed> found;
  const auto add = [&](const char* name, auto member, auto value) {
    Changed changed = {name, p};
    changed.problem.*member = value;
    found.push_back(changed);
  };
  for (int32_t pass = REPLK_FORWARD; pass <= REPLK_GRAD_WEIGHT; ++pass) {
    if (pass != p.pass) add("another pass", &replk_problem::pass, pass);
  }
  if (p.pass == REPLK_FORWARD) add("another activation", &replk_problem::activation, 1 - p.activation);
  add("another dtype", &replk_problem::dtype, 1 - p.dtype);
  add("another method", &replk_problem::method, p.method % 5 + 1);
  add("another instruction set", &replk_problem::isa, p.isa % 4 + 1);
  add("more threads", &replk_problem::threads, p.threads + 7);
  add("a larger batch", &replk_problem::n, p.n + 60);
  add("more channels", &replk_problem::c, p.c + 100);
  add("a higher plane", &replk_problem::h, p.h + 300);
  add("a wider plane", &replk_problem::w, p.w + 300);
  add("a higher kernel", &replk_problem::kh, p.kh + 60);
  add("a wider kernel", &replk_problem::kw, p.kw + 60);
  add("the other `prepared`", &replk_problem::prepared, 1 - p.prepared);
  add("another memory format", &replk_problem::channels_last, 1 - p.channels_last);
  return found;
}

std::vector<replk_plan> changed_plans(const replk_plan& plan) {
  std::vector<replk_plan> found;
  for (int32_t method = REPLK_METHOD_AUTO - 1; method <= REPLK_METHOD_HOST + 1; ++method) {
    if (method != plan.method) found.push_back(plan), found.back().method = method;
  }
  for (int32_t isa = REPLK_ISA_AUTO - 1; isa <= REPLK_ISA_NEON + 1; ++isa) {
    if (isa != plan.isa) found.push_back(plan), found.back().isa = isa;
  }
  found.push_back(plan), found.back().channels_last = 1 - plan.channels_last;
  for (auto member :
       {&replk_plan::tile_h, &replk_plan::tile_w, &replk_plan::packed_bytes, &replk_plan::workspace_bytes}) {
    for (const int64_t value : {int64_t{-1}, int64_t{7}, plan.*member + 64}) {
      found.push_back(plan), found.back().*member = value;
    }
  }
  found.push_back(replk_plan{});
  return found;
}

bool check(const replk_kernel& kernel) {
  const replk_problem problem = {
      kernel.pass, kernel.dtype, REPLK_NO_ACTIVATION, kernel.method, kernel.isa, 2, 2, 17, 9, 11, 5, 7, 0, 0};
  replk_plan plan;
  if (!expect(replk_dwconv2d_plan(&problem, &plan), REPLK_OK, kernel.name, "plan")) return false;
  const Guarded unreadable(0, 64);
  replk_buffers buffers{};
  buffers.input = buffers.output = buffers.workspace = unreadable.data();
  (kernel.pass == REPLK_GRAD_WEIGHT ? buffers.grad : buffers.weight) = unreadable.data();
  buffers.workspace_bytes = int64_t{1} << 40;
  bool passed = true;
  for (const Changed& changed : changed_problems(problem)) {
    passed &=
        expect(replk_dwconv2d_run(&changed.problem, &plan, &buffers), REPLK_PLAN_MISMATCH, kernel.name, changed.name);
    passed &= expect(replk_dwconv2d_pack(&changed.problem, &plan, unreadable.data(), unreadable.data()),
                     REPLK_PLAN_MISMATCH, kernel.name, changed.name);
  }
  for (const replk_plan& changed : changed_plans(plan)) {
    passed &=
        expect(replk_dwconv2d_run(&problem, &changed, &buffers), REPLK_PLAN_MISMATCH, kernel.name, "changed plan");
    passed &= expect(replk_dwconv2d_pack(&problem, &changed, unreadable.data(), unreadable.data()), REPLK_PLAN_MISMATCH,
                     kernel.name, "changed plan");
  }
  buffers.workspace_bytes = plan.workspace_bytes - 1;
  if (plan.workspace_bytes > 0) {
    passed &=
        expect(replk_dwconv2d_run(&problem, &plan, &buffers), REPLK_WORKSPACE_TOO_SMALL, kernel.name, "workspace");
  }
  buffers.workspace_bytes = plan.workspace_bytes;
  if (plan.packed_bytes == 0) {  // this method does not prepare weights and ignores the pointer
    buffers.packed = unreadable.data();
    passed &= expect(replk_dwconv2d_run(&problem, &plan, &buffers), REPLK_PACKED_MISMATCH, kernel.name, "packed");
    return passed & expect(replk_dwconv2d_pack(&problem, &plan, unreadable.data(), unreadable.data()),
                           REPLK_UNSUPPORTED, kernel.name, "pack");
  }
  // Prepared weights of all other plans that have one, and memory without a prepared weight.
  for (const Changed& changed : changed_problems(problem)) {
    replk_plan other;
    if (replk_dwconv2d_plan(&changed.problem, &other) != REPLK_OK || other.packed_bytes == 0) continue;
    const bool is_same = other.method == plan.method && other.isa == plan.isa &&
                         changed.problem.dtype == problem.dtype && changed.problem.c == problem.c &&
                         changed.problem.h == problem.h && changed.problem.w == problem.w &&
                         changed.problem.kh == problem.kh && changed.problem.kw == problem.kw;
    const Guarded large_weight(changed.problem.c * changed.problem.kh * changed.problem.kw * 4, 64);
    std::memset(large_weight.data(), 0, static_cast<size_t>(large_weight.bytes()));
    const Guarded packed(other.packed_bytes, 64);
    passed &= expect(replk_dwconv2d_pack(&changed.problem, &other, large_weight.data(), packed.data()), REPLK_OK,
                     kernel.name, "pack");
    buffers.packed = packed.data();
    if (is_same) continue;
    passed &= expect(replk_dwconv2d_run(&problem, &plan, &buffers), REPLK_PACKED_MISMATCH, kernel.name, changed.name);
  }
  const Guarded garbage(64, 64);
  std::memset(garbage.data(), 0, 64);
  buffers.packed = garbage.data();
  return passed & expect(replk_dwconv2d_run(&problem, &plan, &buffers), REPLK_PACKED_MISMATCH, kernel.name, "zeros");
}

}  // namespace

int main() {
  bool passed = true;
  for (const replk_kernel& kernel : replk_tests::kernels()) passed = check(kernel) && passed;
  replk_kernel kernel;
  passed &= expect(replk_dwconv2d_kernel(-1, &kernel), REPLK_INVALID_ARGUMENT, "kernel", "-1");
  passed &= expect(replk_dwconv2d_kernel(0, nullptr), REPLK_INVALID_ARGUMENT, "kernel", "null");
  std::printf("%d checks of mismatches, %s\n", checks, passed ? "all passed" : "some FAILED");
  return passed && checks > 2 ? 0 : 1;
}
