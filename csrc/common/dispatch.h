// Which method, instruction set and tile computes a problem.
#ifndef REPLK_COMMON_DISPATCH_H_
#define REPLK_COMMON_DISPATCH_H_

#include "common/task.h"

namespace replk {

// Fills method, isa, tile and packed_bytes of `plan`; false where a forced choice cannot be met.
bool choose(const replk_problem& problem, replk_plan& plan);

// The functions of a plan that `choose` made; null for REPLK_METHOD_HOST and for what this machine does not have.
const Method* find_method(const replk_problem& problem, const replk_plan& plan);

}  // namespace replk

#endif  // REPLK_COMMON_DISPATCH_H_
