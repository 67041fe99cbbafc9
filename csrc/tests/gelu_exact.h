// GELU and its derivative in double, by the functions of the C library.
#ifndef REPLK_TESTS_GELU_EXACT_H_
#define REPLK_TESTS_GELU_EXACT_H_

#include <cmath>

namespace replk_tests {

struct Gelu {
  double value, derivative;
};

inline Gelu exact_gelu(double x) {
  const double distribution = 0.5 * std::erfc(-x * std::sqrt(0.5));
  return {x * distribution, distribution + x * std::exp(-0.5 * x * x) * 0.3989422804014327};
}

}  // namespace replk_tests

#endif  // REPLK_TESTS_GELU_EXACT_H_
