// Distribution of work over threads.
#ifndef REPLK_COMMON_PARALLEL_H_
#define REPLK_COMMON_PARALLEL_H_

#include <cstdint>

namespace replk {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

void set_gomp_parallel(GompParallel function);

// Calls body(context, begin, end, thread) for contiguous, disjoint ranges that cover [0, items), on at most `threads`
// threads, thread in [0, threads); returns when all are done.
void parallel_for(int64_t items, int threads, void (*body)(void*, int64_t, int64_t, int), void* context);

}  // namespace replk

#endif  // REPLK_COMMON_PARALLEL_H_
