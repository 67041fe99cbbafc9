// Compares random problems, strides and contents, valid and invalid, with the reference method on guarded buffers.
//
// A libFuzzer target (clang -fsanitize=fuzzer,address,undefined -DREPLK_LIBFUZZER). With any other compiler, main()
// generates the inputs:
//
//   fuzz_dwconv2d [SECONDS [SEED]]      default 20 s from seed 1; a failing input is printed with its seed
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "tests/checked_call.h"

namespace {

using replk_tests::Case;
using replk_tests::Layout;
using replk_tests::Packed;

// Reads numbers from the input, and zeros after its end.
class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  int64_t below(int64_t limit) {
    uint32_t value = 0;
    for (int i = 0; i < 2; ++i) value = value << 8 | (at_ < size_ ? data_[at_++] : 0u);
    return static_cast<int64_t>(value) % limit;
  }
  int64_t any() {
    int64_t value = 0;
    for (int i = 0; i < 8; ++i)
      value = static_cast<int64_t>(static_cast<uint64_t>(value) << 8 | static_cast<uint64_t>(below(256)));
    return value;
  }

 private:
  const uint8_t* data_;
  size_t size_, at_ = 0;
};

// Mostly small sizes, some at the boundaries of vectors and tiles.
int64_t draw_size(Bytes& bytes) {
  const int64_t special[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 79, 80, 81, 0};
  return bytes.below(2) ? special[bytes.below(24)] : 1 + bytes.below(90);
}

int64_t draw_kernel(Bytes& bytes) {
  const int64_t special[] = {1, 3, 5, 7, 9, 13, 27, 29, 31, 51, 61, 99};
  return bytes.below(4) ? special[bytes.below(12)] : 2 * bytes.below(40) + 1;
}

// Arbitrary numbers: the result is a status, never a crash, and the sizes in an accepted plan are within their bounds.
bool check_arguments(Bytes& bytes) {
  replk_problem p;
  int32_t* const small[] = {&p.pass, &p.dtype,   &p.activation, &p.method,
                            &p.isa,  &p.threads, &p.prepared,   &p.channels_last};
  for (int32_t* field : small) *field = static_cast<int32_t>(bytes.below(8) ? bytes.below(9) - 1 : bytes.any());
  int64_t* const sizes[] = {&p.n, &p.c, &p.h, &p.w, &p.kh, &p.kw};
  for (int64_t* size : sizes) {
    *size = bytes.below(3) ? bytes.below(100) - 3 : bytes.any() >> bytes.below(64);
  }
  replk_plan plan;
  if (replk_dwconv2d_plan(&p, &plan) != REPLK_OK) return true;
  const bool sane = plan.workspace_bytes >= 0 && plan.workspace_bytes <= int64_t{64} << 20 && plan.packed_bytes >= 0;
  if (!sane)
    std::fprintf(stderr, "FAILED %s: unreasonable sizes in the plan\n", replk_tests::describe(p, plan).c_str());
  return sane;
}

bool check_one(const uint8_t* data, size_t size) {
  Bytes bytes(data, size);
  if (bytes.below(8) == 0) return check_arguments(bytes);
  replk_problem p{};
  p.pass = static_cast<int32_t>(bytes.below(3));
  p.dtype = bytes.below(4) ? REPLK_F32 : REPLK_BF16;
  p.activation = p.pass == REPLK_FORWARD ? static_cast<int32_t>(bytes.below(2)) : REPLK_NO_ACTIVATION;
  p.threads = 1;
  p.n = bytes.below(16) ? 1 + bytes.below(3) : 0;
  p.c = bytes.below(4) ? 1 + bytes.below(5) : bytes.below(40);
  p.h = draw_size(bytes);
  p.w = draw_size(bytes);
  p.kh = draw_kernel(bytes);
  p.kw = bytes.below(2) ? p.kh : draw_kernel(bytes);
  p.prepared = static_cast<int32_t>(bytes.below(2));
  // The reference takes about a nanosecond per tap: many small cases find more than a few large ones.
  while (p.n * p.c * p.h * p.w * p.kh * p.kw > 4000000) {
    (p.n > 1 ? p.n : p.c > 1 ? p.c : p.h > p.w ? p.h : p.w) -= 1;
  }
  Layout layout;
  layout.row_gap = bytes.below(2) ? bytes.below(20) : 0;
  layout.plane_gap = bytes.below(2) ? bytes.below(3) : 0;
  layout.channels_outside = bytes.below(4) == 0;
  layout.channels_last = bytes.below(2) != 0;
  layout.packed = static_cast<Packed>(bytes.below(3));
  layout.bias = bytes.below(2) != 0;
  layout.spread = bytes.below(2) ? 1.0f : 1e6f;
  const std::vector<int32_t> isas = replk_tests::isas();
  const int32_t isa = isas[static_cast<size_t>(bytes.below(static_cast<int64_t>(isas.size())))];
  const int32_t threads = 1 + static_cast<int32_t>(bytes.below(4));
  Case checked(p, layout, static_cast<uint64_t>(bytes.any()));
  int ran = 0;
  bool passed = true;
  for (const replk_kernel& kernel : replk_tests::kernels_of(p)) {
    if (kernel.isa == isa) passed = checked.check(kernel.method, isa, threads, ran) && passed;
  }
  return checked.check(REPLK_METHOD_AUTO, isa, threads, ran) && passed;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (!check_one(data, size)) std::abort();
  return 0;
}

#ifndef REPLK_LIBFUZZER
int main(int count, char** arguments) {
  const double seconds = count > 1 ? std::atof(arguments[1]) : 20;
  const uint64_t first = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1;
  const auto begin = std::chrono::steady_clock::now();
  uint64_t seed = first, failures = 0;
  do {
    replk_tests::Random random(seed);
    uint8_t data[96];
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random.next());
    if (!check_one(data, sizeof data)) {
      std::fprintf(stderr, "  again with: fuzz_dwconv2d 0 %llu\n", static_cast<unsigned long long>(seed));
      ++failures;
    }
    ++seed;
  } while (failures < 20 && std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds);
  std::printf("%llu inputs, %llu failed\n", static_cast<unsigned long long>(seed - first),
              static_cast<unsigned long long>(failures));
  return failures ? 1 : 0;
}
#endif
