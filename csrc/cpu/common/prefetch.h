// Fetches the next item's input, and the lines of the output, while this item is being computed: the copies at both
// ends of an item are short bursts that the hardware's prefetchers would meet too late.
#ifndef REPLK_CPU_COMMON_PREFETCH_H_
#define REPLK_CPU_COMMON_PREFETCH_H_

#include <cstdint>

namespace replk {
namespace REPLK_ISA {

class Prefetch {
 public:
  Prefetch() = default;
  // `runs` runs of `bytes` bytes each, `stride` bytes apart.
  Prefetch(const void* base, int64_t runs, int64_t bytes, int64_t stride)
      : run_(static_cast<const char*>(base)), runs_(runs), bytes_(bytes), stride_(stride) {}

  int64_t lines() const { return runs_ * (bytes_ / kLineBytes + 1); }

  void fetch(int64_t count) {
    for (; count > 0 && runs_ > 0; --count) {
#if defined(__GNUC__)
      __builtin_prefetch(run_ + (at_ < bytes_ ? at_ : bytes_ - 1), 0, 2);
#endif
      at_ += kLineBytes;
      if (at_ >= bytes_ + kLineBytes) {  // one more: a run need not start with a line
        at_ = 0;
        run_ += stride_;
        --runs_;
      }
    }
  }

 private:
  static constexpr int64_t kLineBytes = 64;
  const char* run_ = nullptr;
  int64_t runs_ = 0, bytes_ = 0, stride_ = 0, at_ = 0;
};

// Two of them, each spread evenly over a number of units of work.
class PrefetchPair {
 public:
  PrefetchPair(Prefetch a, Prefetch b, int64_t work)
      : a_(a), b_(b), lines_a_(a.lines()), lines_b_(b.lines()), work_(work) {}
  void step(int64_t work = 1) {
    if (lines_a_ > 0) a_.fetch(lines_a_ * work / work_ + 1);
    if (lines_b_ > 0) b_.fetch(lines_b_ * work / work_ + 1);
  }

 private:
  Prefetch a_, b_;
  int64_t lines_a_, lines_b_, work_;
};

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_COMMON_PREFETCH_H_
