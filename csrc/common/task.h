// A validated call as passed to the methods, the interface of a method, and the list of methods.
#ifndef REPLK_COMMON_TASK_H_
#define REPLK_COMMON_TASK_H_

#include <atomic>

#include "common/per_isa.h"
#include "replk/dwconv2d.h"

namespace replk {

struct Task {
  const replk_problem& problem;
  const replk_plan& plan;
  const replk_buffers& buffers;
  const char* packed;           // the prepared weight without its header, or null
  std::atomic<int32_t>& stale;  // set to 1 by any thread that finds that `packed` was made from other values
};

// Functions of one method on one instruction set. Work is a range of items that do not depend on each other and are
// computed in the same way for every partition, so that results do not depend on the number of threads.
struct Method {
  // Whether this method can compute the problem. Fills tile and packed_bytes of the plan, which are zero before.
  bool (*plan)(const replk_problem&, replk_plan&);
  int64_t (*scratch_bytes)(const replk_problem&, const replk_plan&);  // per thread; a multiple of 64
  int64_t (*items)(const replk_problem&, const replk_plan&);
  void (*run)(const Task&, int64_t begin, int64_t end, void* scratch);  // scratch is 64-byte aligned
  // Prepares the weight of channels [begin, end); null if packed_bytes is always 0.
  void (*pack)(const replk_problem&, const replk_plan&, const void* weight, char* packed, int64_t begin, int64_t end,
               void* scratch);
  // Vector operations of the whole problem, for methods whose cost is not a function of the sizes alone; else null.
  double (*operations)(const replk_problem&, const replk_plan&) = nullptr;
};

// The methods that are compiled once for each instruction set: X(enumerator, file in cpu/, name, uses FFTs). Each
// defines `const Method <file>_methods[3]`, indexed by replk_pass; an entry without `run` is not implemented.
#define REPLK_FOR_EACH_METHOD(X)    \
  X(DIRECT, direct, "direct", 0)    \
  X(FFT, fft, "fft", 1)             \
  X(BLOCKED, blocked, "blocked", 0) \
  X(BLOCKED_PFA, blocked_pfa, "blocked-pfa", 1)

#define REPLK_DECLARE_METHOD(id, file, name, uses_fft) extern const Method file##_methods[3];
REPLK_DECLARE_PER_ISA(REPLK_FOR_EACH_METHOD(REPLK_DECLARE_METHOD))
#undef REPLK_DECLARE_METHOD

extern const Method reference_methods[3];

}  // namespace replk

#endif  // REPLK_COMMON_TASK_H_
