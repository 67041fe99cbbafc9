// Software prefetching of the next item's input and of the output lines while an item is computed: the copies before
// and after an item are short bursts, to which hardware prefetchers react too late.
#ifndef REPLK_CPU_COMMON_PREFETCH_H_
#define REPLK_CPU_COMMON_PREFETCH_H_

#include <cstdint>

#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {

class Prefetch {
 public:
  Prefetch() = default;
  // `runs` contiguous runs of `bytes` bytes, `stride` bytes apart.
  Prefetch(const void* base, int64_t runs, int64_t bytes, int64_t stride)
      : run_(static_cast<const char*>(base)), runs_(runs), bytes_(bytes), stride_(stride) {}

  int64_t lines() const { return runs_ * (bytes_ / kLineBytes + 1); }

  void prefetch_lines(int64_t count) {
    for (; count > 0 && runs_ > 0; --count) {
      prefetch(run_ + (at_ < bytes_ ? at_ : bytes_ - 1));
      at_ += kLineBytes;
      if (at_ >= bytes_ + kLineBytes) {  // one more line: a run may start inside a line
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

// Two prefetchers, each spread evenly over a number of work units.
class PrefetchPair {
 public:
  PrefetchPair(Prefetch a, Prefetch b, int64_t work)
      : a_(a), b_(b), lines_a_(a.lines()), lines_b_(b.lines()), work_(work) {}
  void step(int64_t work = 1) {
    if (lines_a_ > 0) a_.prefetch_lines(lines_a_ * work / work_ + 1);
    if (lines_b_ > 0) b_.prefetch_lines(lines_b_ * work / work_ + 1);
  }

 private:
  Prefetch a_, b_;
  int64_t lines_a_, lines_b_, work_;
};

// The rows of a window of memory, spread evenly over a number of steps.
class RowPrefetch {
 public:
  RowPrefetch(const void* first, int64_t row_bytes, int rows, int bytes, int steps)
      : row_(static_cast<const char*>(first)), row_bytes_(row_bytes), rows_(rows), bytes_(bytes), steps_(steps) {}

  void step() {
    for (due_ += rows_; due_ >= steps_; due_ -= steps_, row_ += row_bytes_) {
      for (int offset = 0; offset < bytes_; offset += 64) prefetch(row_ + offset);
    }
  }

 private:
  const char* row_;    // the next one
  int64_t row_bytes_;  // from one row to the next
  int rows_, bytes_, steps_;
  int due_ = 0;  // rows to prefetch now, times steps_
};

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_COMMON_PREFETCH_H_
