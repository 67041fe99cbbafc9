#include "common/parallel.h"

#include <atomic>
#include <cstddef>
#include <exception>
#include <thread>
#include <vector>

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace replk {
namespace {

std::atomic<GompParallel> gomp_parallel{nullptr};

// OpenMP's thread pool does not survive a fork: its threads do not exist in the child process, and waiting for them
// would never end.
void reset_in_forked_children() {
#if !defined(_WIN32)
  static const int registered = pthread_atfork(nullptr, nullptr, [] { gomp_parallel.store(nullptr); });
  (void)registered;
#endif
}

struct Split {
  int64_t items;
  int threads;
  void (*body)(void*, int64_t, int64_t, int);
  void* context;
  std::atomic<int> next{0};

  // Threads fetch pieces dynamically: the team may be smaller than requested.
  void work() {
    for (int piece = next.fetch_add(1); piece < threads; piece = next.fetch_add(1)) {
      const int64_t base = items / threads, rest = items % threads;
      const int64_t begin = piece * base + (piece < rest ? piece : rest);
      body(context, begin, begin + base + (piece < rest ? 1 : 0), piece);
    }
  }
};

void work_on(void* split) { static_cast<Split*>(split)->work(); }

}  // namespace

void set_gomp_parallel(GompParallel function) {
  reset_in_forked_children();
  gomp_parallel.store(function);
}

void parallel_for(int64_t items, int threads, void (*body)(void*, int64_t, int64_t, int), void* context) {
  if (items <= 0) return;
  if (threads > items) threads = static_cast<int>(items);
  if (threads <= 1) {
    body(context, 0, items, 0);
    return;
  }
  Split split{items, threads, body, context};
  if (const GompParallel start = gomp_parallel.load()) {
    start(work_on, &split, static_cast<unsigned>(threads), 0);
    return;
  }
  std::vector<std::thread> team;
  try {
    team.reserve(static_cast<std::size_t>(threads) - 1);
    for (int i = 1; i < threads; ++i) team.emplace_back(work_on, &split);
  } catch (const std::exception&) {
    // The system has no more threads or memory: the existing threads do all the work.
  }
  split.work();
  for (std::thread& member : team) member.join();
}

}  // namespace replk
