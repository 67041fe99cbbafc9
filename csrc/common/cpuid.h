// Which instruction sets this CPU and this operating system offer.
#ifndef REPLK_COMMON_CPUID_H_
#define REPLK_COMMON_CPUID_H_

#include "replk/dwconv2d.h"

namespace replk {

// The best replk_isa that may be executed here.
replk_isa best_isa();

}  // namespace replk

#endif  // REPLK_COMMON_CPUID_H_
