// Checks every kernel on all shapes and on guarded buffers, for AddressSanitizer and UndefinedBehaviorSanitizer; also
// useful without them.
//
//   check_shapes [MOST]      only problems with at most MOST multiply-adds, for processors that are emulated
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <limits>

#include "tests/checked_call.h"

namespace {

using replk_tests::Case;
using replk_tests::Layout;
using replk_tests::Packed;

constexpr int64_t kKernels[][2] = {{1, 1},   {3, 3},   {5, 5},   {7, 7},  {13, 13}, {27, 27}, {29, 29},
                                   {31, 31}, {51, 51}, {61, 61}, {51, 5}, {5, 51},  {3, 31},  {1, 9}};
// One pixel; smaller than any tile; around vectors of 4, 8 and 16 lanes and transforms of 40, 48 and 64 points; primes.
constexpr int64_t kPlanes[][2] = {{1, 1},   {1, 19},  {23, 1},  {2, 2},   {7, 7},   {14, 14}, {15, 17},
                                  {16, 33}, {31, 29}, {37, 41}, {48, 47}, {49, 56}, {63, 65}};

}  // namespace

int main(int argument_count, char** arguments) {
  const int64_t most = argument_count > 1 ? std::atoll(arguments[1]) : std::numeric_limits<int64_t>::max();
  int ran = 0, index = 0, problems = 0;
  bool passed = true;
  for (const auto& kernel : kKernels) {
    int64_t planes[std::size(kPlanes) + 2][2];
    size_t count = 0;
    for (const auto& plane : kPlanes) {
      planes[count][0] = plane[0];
      planes[count++][1] = plane[1];
    }
    if (kernel[0] > 1 && kernel[1] > 1) {  // one less than the kernel, and one more
      planes[count][0] = kernel[0] - 1;
      planes[count++][1] = kernel[1] - 1;
      planes[count][0] = kernel[0] + 1;
      planes[count++][1] = kernel[1] + 1;
    }
    for (size_t at = 0; at < count; ++at) {
      for (int pass = REPLK_FORWARD; pass <= REPLK_GRAD_WEIGHT; ++pass, ++index) {
        // Options that do not depend on the shape alternate in cycles of different lengths.
        const int64_t channels[] = {3, 1, 17, 2, 33}, images[] = {1, 2, 1, 1};
        const bool is_large = planes[at][0] * planes[at][1] * kernel[0] * kernel[1] > 200000;
        replk_problem problem{};
        problem.pass = pass;
        problem.dtype = index % 7 == 3 ? REPLK_BF16 : REPLK_F32;
        problem.activation = pass == REPLK_FORWARD && index % 2 ? REPLK_RELU : REPLK_NO_ACTIVATION;
        problem.threads = 1;
        problem.n = index % 29 == 11 ? 0 : is_large ? 1 : images[index % 4];
        problem.c = is_large ? 1 + index % 2 : channels[index % 5];
        problem.h = planes[at][0];
        problem.w = planes[at][1];
        problem.kh = kernel[0];
        problem.kw = kernel[1];
        problem.prepared = index % 2;
        if (problem.n * problem.c * problem.h * problem.w * problem.kh * problem.kw > most) continue;
        ++problems;
        Layout layout;
        layout.row_gap = index % 3 == 1 ? 3 : 0;
        layout.plane_gap = index % 4 == 2 ? 1 : 0;
        layout.channels_outside = index % 5 == 4;
        layout.channels_last = index % 4 < 2;
        layout.packed = index % 11 == 0 ? Packed::kStale : index % 2 ? Packed::kFresh : Packed::kNone;
        layout.bias = index % 3 == 0;
        layout.spread = index % 6 == 5 ? 1e4f : 1.0f;
        Case checked(problem, layout, static_cast<uint64_t>(index));
        for (const replk_kernel& kernel : replk_tests::kernels_of(problem)) {
          passed = checked.check(kernel.method, kernel.isa, 1 + index % 3, ran) && passed;
        }
        passed = checked.check(REPLK_METHOD_AUTO, REPLK_ISA_AUTO, 1 + index % 3, ran) && passed;
      }
    }
  }
  std::printf("%d calls over %d problems, %s\n", ran, problems, passed ? "all passed" : "some FAILED");
  return passed && ran > 0 ? 0 : 1;
}
