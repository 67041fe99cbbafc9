// Memory that will be needed soon, fetched bit by bit while something else is computed.
#ifndef REPLK_CPU_FFT_FETCH_H_
#define REPLK_CPU_FFT_FETCH_H_

#include <cstdint>

#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {

// The rows of a window of memory, spread evenly over some number of steps.
class Fetch {
 public:
  Fetch(const void* first, int64_t row_bytes, int rows, int line_bytes, int steps)
      : row_(static_cast<const char*>(first)),
        row_bytes_(row_bytes),
        rows_(rows),
        line_bytes_(line_bytes),
        steps_(steps) {}

  void step() {
    for (due_ += rows_; due_ >= steps_; due_ -= steps_, row_ += row_bytes_) {
      for (int offset = 0; offset < line_bytes_; offset += 64) prefetch(row_ + offset);
    }
  }

 private:
  const char* row_;    // the next one
  int64_t row_bytes_;  // from one row to the next
  int rows_;
  int line_bytes_;  // of each row that are wanted
  int steps_;
  int due_ = 0;  // rows to fetch now, times steps_
};

}  // namespace REPLK_ISA
}  // namespace replk

#endif  // REPLK_CPU_FFT_FETCH_H_
