// One validated call, as the methods see it, and what a method is made of.
#ifndef REPLK_COMMON_TASK_H_
#define REPLK_COMMON_TASK_H_

#include <atomic>

#include "common/cpuid.h"
#include "replk/dwconv2d.h"

namespace replk {

struct Task {
  const replk_problem& problem;
  const replk_plan& plan;
  const replk_buffers& buffers;
  std::atomic<int32_t>& stale;  // set to 1 by whoever finds that `packed` was made from another weight
};

// Functions of one method on one instruction set. Work is a range of items, each independent of the others and computed
// in the same way whatever the split, so that results do not depend on the number of threads.
struct Method {
  // Whether this method can do the problem at all, and if so its tile and bytes: fills plan (tile, packed_bytes).
  bool (*plan)(const replk_problem&, replk_plan&);
  int64_t (*scratch_bytes)(const replk_problem&, const replk_plan&);  // of one thread; a multiple of 64
  int64_t (*items)(const replk_problem&, const replk_plan&);
  void (*run)(const Task&, int64_t begin, int64_t end, void* scratch);  // scratch is 64-byte aligned
  // Prepare the weight of channels [begin, end); null where packed_bytes is always 0.
  void (*pack)(const replk_problem&, const replk_plan&, const void* weight, void* packed, int64_t begin, int64_t end,
               void* scratch);
  // Vector operations of the whole problem, where they cannot be told from its sizes alone; else null.
  double (*operations)(const replk_problem&, const replk_plan&) = nullptr;
};

// By replk_pass; an entry without `run` is a hole. cpu/<method>.cpp is compiled once for each instruction set.
#define REPLK_METHODS_OF(isa)                                                                    \
  namespace isa {                                                                                \
  extern const Method direct_methods[3], fft_methods[3], lanes_methods[3], lanes_fft_methods[3]; \
  }
REPLK_METHODS_OF(portable)
#if REPLK_HAS_AVX2
REPLK_METHODS_OF(avx2)
#endif
#if REPLK_HAS_AVX512
REPLK_METHODS_OF(avx512)
#endif
#undef REPLK_METHODS_OF

extern const Method reference_method;

}  // namespace replk

#endif  // REPLK_COMMON_TASK_H_
