// GELU on every instruction set: memory outside of the maps, and agreement with the C library's functions.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "replk/dwconv2d.h"
#include "tests/checked_call.h"
#include "tests/gelu_exact.h"

namespace {

constexpr double kUnit = 1.0 / (1 << 24);

bool near(double found, double exact, double bound) { return std::fabs(found - exact) <= bound + 1e-36; }

// Vectors of exactly the size of each map, so that AddressSanitizer finds any access outside.
bool check(int32_t isa, int32_t threads, int64_t rows, int64_t columns) {
  const size_t size = static_cast<size_t>(rows * columns), maps = static_cast<size_t>(rows);
  std::vector<float> x(size), grad(size), y(size), output(size), grad_scale(maps), output_scale(maps);
  std::vector<double> squares(maps), products(maps);
  for (size_t i = 0; i < size; ++i) {
    x[i] = static_cast<float>(i * 37 % 257) / 16.0f - 8.0f;
    grad[i] = static_cast<float>(i * 91 % 101) / 50.0f - 1.0f;
  }
  for (size_t i = 0; i < maps; ++i) {
    grad_scale[i] = 1.0f + static_cast<float>(i % 5);
    output_scale[i] = static_cast<float>(i % 3) - 1.0f;
  }
  bool passed = replk_gelu_forward(isa, threads, rows, columns, x.data(), y.data(), squares.data()) == REPLK_OK &&
                replk_gelu_products(isa, threads, rows, columns, x.data(), grad.data(), products.data()) == REPLK_OK &&
                replk_gelu_grad_input(isa, threads, rows, columns, x.data(), grad.data(), grad_scale.data(),
                                      output_scale.data(), output.data()) == REPLK_OK;
  for (size_t row = 0; row < maps; ++row) {
    double square = 0, square_error = 0, product = 0, product_error = 0;
    for (size_t i = row * static_cast<size_t>(columns); i < (row + 1) * static_cast<size_t>(columns); ++i) {
      const double wide = x[i];
      const auto [exact, derivative] = replk_tests::exact_gelu(wide);
      const double relative = (8 + 2 * wide * wide) * kUnit, inner = grad_scale[row] * grad[i];
      const double outer = output_scale[row] * exact;
      passed = passed && near(y[i], exact, relative * std::fabs(exact)) &&
               near(output[i], derivative * (inner + outer),
                    (relative + 4 * kUnit) * (2 + std::fabs(wide)) * 2 * (std::fabs(inner) + std::fabs(outer)));
      square += exact * exact;
      square_error += exact * exact * (2 * relative + 70 * kUnit);
      product += exact * grad[i];
      product_error += std::fabs(exact * grad[i]) * (relative + 70 * kUnit);
    }
    passed = passed && near(squares[row], square, square_error) && near(products[row], product, product_error);
  }
  if (!passed) {
    std::fprintf(stderr, "FAILED gelu: isa %d, %d threads, %lld x %lld\n", isa, threads, static_cast<long long>(rows),
                 static_cast<long long>(columns));
  }
  return passed;
}

}  // namespace

int main() {
  int ran = 0;
  bool passed = true;
  for (const int32_t isa : replk_tests::isas_and_auto()) {
    for (const int32_t threads : {1, 3}) {
      for (const int64_t rows : {0, 1, 5}) {
        for (const int64_t columns : {0, 1, 3, 4, 15, 16, 17, 33, 1023, 1024, 1025, 3000}) {
          passed = check(isa, threads, rows, columns) && passed;
          ++ran;
        }
      }
    }
  }
  std::printf("%d calls of GELU, %s\n", ran, passed ? "all passed" : "some FAILED");
  return passed ? 0 : 1;
}
