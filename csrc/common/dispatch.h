// The choice of method, instruction set and tile for a problem.
#ifndef REPLK_COMMON_DISPATCH_H_
#define REPLK_COMMON_DISPATCH_H_

#include "common/task.h"

namespace replk {

// Fills method, isa, tile and packed_bytes of `plan`; false if a requested method or instruction set cannot be used.
bool choose(const replk_problem& problem, replk_plan& plan);

// The functions of a plan made by `choose`; null for REPLK_METHOD_HOST and for kernels that this CPU cannot run.
const Method* find_method(const replk_problem& problem, const replk_plan& plan);

// Writes the kernel of this index; false after the last one.
bool describe_kernel(int32_t index, replk_kernel& kernel);

}  // namespace replk

#endif  // REPLK_COMMON_DISPATCH_H_
