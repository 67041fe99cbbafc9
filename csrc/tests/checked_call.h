// Compares a call of the library on guarded buffers with the reference method.
//
// Every buffer ends at an unreadable page, so that any access past its end terminates the program; AddressSanitizer, if
// enabled, also guards the bytes before it. Gaps between rows contain NaN (inputs) or a pattern (outputs), so that
// using the former or changing the latter is detected.
#ifndef REPLK_TESTS_CHECKED_CALL_H_
#define REPLK_TESTS_CHECKED_CALL_H_

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "common/bfloat16.h"
#include "replk/dwconv2d.h"

// Defined if the library, though not this file, is compiled with AddressSanitizer.
#ifdef REPLK_TESTS_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace replk_tests {

// Memory of exactly `bytes` that ends as close to an unreadable page as `alignment` allows.
class Guarded {
 public:
  Guarded(int64_t bytes, int64_t alignment) : bytes_(bytes) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    mapped_ = (bytes + alignment + page - 1) / page * page + page;
    base_ = static_cast<char*>(
        mmap(nullptr, static_cast<size_t>(mapped_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + mapped_ - page, static_cast<size_t>(page), PROT_NONE) != 0) {
      std::perror("mmap");
      std::abort();
    }
    const int64_t capacity = mapped_ - page;
    begin_ = base_ + (capacity - bytes) / alignment * alignment;
    std::memset(base_, kSlack, static_cast<size_t>(capacity));
    poison(true);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() {
    poison(false);
    munmap(base_, static_cast<size_t>(mapped_));
  }

  char* data() const { return begin_; }
  int64_t bytes() const { return bytes_; }

  // Whether the bytes in front of the buffer, and any alignment gap behind it, are unchanged.
  bool slack_is_untouched() {
    poison(false);
    const char* end = base_ + mapped_ - sysconf(_SC_PAGESIZE);
    bool untouched = true;
    for (const char* p = base_; p < end; ++p) {
      if (p == begin_) p += bytes_;
      if (p < end && *p != kSlack) untouched = false;
    }
    poison(true);
    return untouched;
  }

 private:
  static constexpr char kSlack = 0x5a;

  void poison(bool on) {
#ifdef REPLK_TESTS_ASAN
    char* end = base_ + mapped_ - sysconf(_SC_PAGESIZE);
    if (on) {
      __asan_poison_memory_region(base_, static_cast<size_t>(begin_ - base_));
      __asan_poison_memory_region(begin_ + bytes_, static_cast<size_t>(end - begin_ - bytes_));
    } else {
      __asan_unpoison_memory_region(base_, static_cast<size_t>(end - base_));
    }
#else
    (void)on;
#endif
  }

  char *base_, *begin_;
  int64_t bytes_, mapped_;
};

// SplitMix64: small, and the same on every platform.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  int64_t below(int64_t limit) { return static_cast<int64_t>(next() % static_cast<uint64_t>(limit)); }
  float signed_unit() { return static_cast<float>(static_cast<double>(next() >> 11) * 0x1p-52 - 1.0); }

 private:
  uint64_t state_;
};

enum class Packed { kNone, kFresh, kStale };

// The options of a case, except the problem itself.
struct Layout {
  int64_t row_gap = 0;            // elements between the end of a row and the beginning of the next
  int64_t plane_gap = 0;          // rows between planes
  bool channels_outside = false;  // the strides of n and c in the order [C,N,H,W]
  bool channels_last = false;     // [N,H,W,C], with row_gap elements between pixels and plane_gap pixels between rows
  Packed packed = Packed::kNone;
  bool bias = false;
  float spread = 1.0f;  // channel c is scaled by spread^(c % 3 - 1)
};

inline int64_t element_size(int32_t dtype) { return dtype == REPLK_F32 ? 4 : 2; }

inline float get(const char* base, int64_t index, int32_t dtype) {
  if (dtype == REPLK_F32) {
    float value;
    std::memcpy(&value, base + 4 * index, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, base + 2 * index, 2);
  return replk::bfloat16_to_float(bits);
}

inline void put(char* base, int64_t index, int32_t dtype, float value) {
  if (dtype == REPLK_F32) {
    std::memcpy(base + 4 * index, &value, 4);
  } else {
    const uint16_t bits = replk::float_to_bfloat16(value);
    std::memcpy(base + 2 * index, &bits, 2);
  }
}

// An [N,C,H,W] tensor in guarded memory.
class Tensor {
 public:
  Tensor(const replk_problem& p, const Layout& layout, bool channels_last = false)
      : n_(p.n),
        c_(p.c),
        h_(p.h),
        w_(p.w),
        dtype_(p.dtype),
        strides_(strides_of(p, layout, channels_last)),
        stride_{strides_.n, channels_last ? strides_.w : strides_.c, strides_.h},
        memory_(extent() * element_size(p.dtype), element_size(p.dtype)) {
    fill_all(std::numeric_limits<float>::quiet_NaN());
  }

  void draw(Random& random, float spread) {
    for_each([&](int64_t index, int64_t c) {
      put(memory_.data(), index, dtype_, random.signed_unit() * std::pow(spread, static_cast<float>(c % 3 - 1)));
    });
  }
  // The elements of a tensor of the same sizes.
  void take(const Tensor& other) {
    const std::vector<float> values = other.values();
    size_t next = 0;
    for_each([&](int64_t index, int64_t) { put(memory_.data(), index, dtype_, values[next++]); });
  }
  // In place, so that gaps are unchanged.
  void take_absolute() {
    for_each([&](int64_t index, int64_t) { put(memory_.data(), index, dtype_, std::fabs(at(index))); });
  }
  void fill_all(float value) {
    for (int64_t i = 0; i < memory_.bytes() / element_size(dtype_); ++i) put(memory_.data(), i, dtype_, value);
  }
  // The elements, dense [N,C,H,W].
  std::vector<float> values() const {
    std::vector<float> dense;
    for_each([&](int64_t index, int64_t) { dense.push_back(at(index)); });
    return dense;
  }
  // Whether everything except the elements still contains the NaN of fill_all(NaN).
  bool gaps_are_untouched() {
    if (!memory_.slack_is_untouched()) return false;
    std::vector<bool> is_element(static_cast<size_t>(memory_.bytes() / element_size(dtype_)));
    for_each([&](int64_t index, int64_t) { is_element[static_cast<size_t>(index)] = true; });
    for (size_t i = 0; i < is_element.size(); ++i) {
      if (!is_element[i] && !std::isnan(at(static_cast<int64_t>(i)))) return false;
    }
    return true;
  }

  char* data() const { return memory_.data(); }
  const int64_t* stride() const { return stride_; }  // as in replk_buffers
  std::vector<char> bytes() const { return {memory_.data(), memory_.data() + memory_.bytes()}; }

 private:
  struct Strides {
    int64_t n, c, h, w;
  };
  static Strides strides_of(const replk_problem& p, const Layout& layout, bool channels_last) {
    if (channels_last) {
      const int64_t pixel = p.c + layout.row_gap, row = (p.w + layout.plane_gap) * pixel;
      return {p.h * row, 1, row, pixel};
    }
    const int64_t row = p.w + layout.row_gap, plane = (p.h + layout.plane_gap) * row;
    return layout.channels_outside ? Strides{plane, plane * p.n, row, 1} : Strides{plane * p.c, plane, row, 1};
  }
  // The tensor ends with its last element, not with a gap.
  int64_t extent() const {
    if (n_ * c_ * h_ * w_ == 0) return 0;
    return (n_ - 1) * strides_.n + (c_ - 1) * strides_.c + (h_ - 1) * strides_.h + (w_ - 1) * strides_.w + 1;
  }
  float at(int64_t index) const { return get(memory_.data(), index, dtype_); }
  template <class Function>
  void for_each(Function function) const {
    for (int64_t n = 0; n < n_; ++n) {
      for (int64_t c = 0; c < c_; ++c) {
        for (int64_t i = 0; i < h_; ++i) {
          for (int64_t j = 0; j < w_; ++j) {
            function(n * strides_.n + c * strides_.c + i * strides_.h + j * strides_.w, c);
          }
        }
      }
    }
  }

  int64_t n_, c_, h_, w_;
  int32_t dtype_;
  Strides strides_;
  int64_t stride_[3];
  Guarded memory_;
};

// A dense array, of weights or biases, in guarded memory.
class Array {
 public:
  Array(int64_t size, int32_t dtype)
      : size_(size), dtype_(dtype), memory_(size * element_size(dtype), element_size(dtype)) {
    for (int64_t i = 0; i < size; ++i) put(memory_.data(), i, dtype, std::numeric_limits<float>::quiet_NaN());
  }
  void draw(Random& random) {
    for (int64_t i = 0; i < size_; ++i) put(memory_.data(), i, dtype_, random.signed_unit());
  }
  void take_absolute() {
    for (int64_t i = 0; i < size_; ++i) put(memory_.data(), i, dtype_, std::fabs(get(memory_.data(), i, dtype_)));
  }
  std::vector<float> values() const {
    std::vector<float> dense;
    for (int64_t i = 0; i < size_; ++i) dense.push_back(get(memory_.data(), i, dtype_));
    return dense;
  }
  bool slack_is_untouched() { return memory_.slack_is_untouched(); }
  char* data() const { return memory_.data(); }
  std::vector<char> bytes() const { return {memory_.data(), memory_.data() + memory_.bytes()}; }

 private:
  int64_t size_;
  int32_t dtype_;
  Guarded memory_;
};

// Every kernel that this CPU can run.
inline std::vector<replk_kernel> kernels() {
  std::vector<replk_kernel> found;
  for (replk_kernel kernel; replk_dwconv2d_kernel(static_cast<int32_t>(found.size()), &kernel) == REPLK_OK;) {
    found.push_back(kernel);
  }
  return found;
}

// The instruction sets of which this CPU can run kernels.
inline std::vector<int32_t> isas() {
  std::vector<int32_t> found;
  for (const replk_kernel& kernel : kernels()) {
    if (std::find(found.begin(), found.end(), kernel.isa) == found.end()) found.push_back(kernel.isa);
  }
  return found;
}

// The same, and the automatic choice.
inline std::vector<int32_t> isas_and_auto() {
  std::vector<int32_t> found = isas();
  found.push_back(REPLK_ISA_AUTO);
  return found;
}

// The kernels of a pass and dtype, without the reference.
inline std::vector<replk_kernel> kernels_of(const replk_problem& p) {
  std::vector<replk_kernel> found;
  for (const replk_kernel& kernel : kernels()) {
    if (kernel.pass == p.pass && kernel.dtype == p.dtype && kernel.method != REPLK_METHOD_REFERENCE) {
      found.push_back(kernel);
    }
  }
  return found;
}

inline replk_kernel kernel_of(const replk_problem& p, const replk_plan& plan) {
  for (const replk_kernel& kernel : kernels()) {
    if (kernel.method == plan.method && kernel.isa == plan.isa && kernel.dtype == p.dtype && kernel.pass == p.pass) {
      return kernel;
    }
  }
  return {"no kernel", plan.method, plan.isa, p.dtype, p.pass, 0};
}

inline std::string describe(const replk_problem& p, const replk_plan& plan) {
  char text[256];
  std::snprintf(
      text, sizeof text, "%s n%lld c%lld h%lld w%lld k%lldx%lld act%d threads%d channels_last%d tile %lldx%lld",
      kernel_of(p, plan).name, static_cast<long long>(p.n), static_cast<long long>(p.c), static_cast<long long>(p.h),
      static_cast<long long>(p.w), static_cast<long long>(p.kh), static_cast<long long>(p.kw), p.activation, p.threads,
      plan.channels_last, static_cast<long long>(plan.tile_h), static_cast<long long>(plan.tile_w));
  return text;
}

// The operands of one problem and the results of the reference method, for any number of checks.
class Case {
 public:
  Case(const replk_problem& problem, const Layout& layout, uint64_t seed)
      : problem_(problem),
        layout_(layout),
        input_(problem, layout),
        grad_(problem, layout),
        weight_(problem.c * problem.kh * problem.kw, problem.dtype),
        other_weight_(problem.c * problem.kh * problem.kw, problem.dtype),
        bias_(problem.c, problem.dtype) {
    Random random(seed);
    input_.draw(random, layout.spread);
    grad_.draw(random, 1.0f);
    weight_.draw(random);
    other_weight_.draw(random);
    bias_.draw(random);
    expected_ = reference();
    // Sums of absolute values, for the standard bound of a dot product.
    Case absolute(*this, nullptr);
    absolute_ = absolute.reference();
  }

  // Runs a method, instruction set and number of threads; returns false and writes to stderr if the result is wrong.
  // A combination that the library does not support counts as passed, and `ran` is not incremented.
  bool check(int32_t method, int32_t isa, int32_t threads, int& ran) {
    replk_problem problem = problem_;
    problem.method = method;
    problem.isa = isa;
    problem.threads = threads;
    problem.channels_last = layout_.channels_last;
    replk_plan plan;
    const int32_t planned = replk_dwconv2d_plan(&problem, &plan);
    if (planned == REPLK_UNSUPPORTED && method != REPLK_METHOD_AUTO) return true;
    if (planned != REPLK_OK) return fail(problem, plan, replk_status_string(planned));
    if (plan.method == REPLK_METHOD_HOST) return true;
    if (plan.workspace_bytes > int64_t{64} << 20) return fail(problem, plan, "requires more than 64 MB of workspace");
    ++ran;

    Guarded packed(layout_.packed == Packed::kNone ? 0 : plan.packed_bytes, 64);
    const bool is_packed = packed.bytes() > 0 && problem.pass != REPLK_GRAD_WEIGHT;
    if (is_packed) {
      const Array& source = layout_.packed == Packed::kStale ? other_weight_ : weight_;
      const int32_t status = replk_dwconv2d_pack(&problem, &plan, source.data(), packed.data());
      if (status != REPLK_OK) return fail(problem, plan, replk_status_string(status));
    }
    Tensor input(problem, layout_, plan.channels_last != 0);
    input.take(input_);
    const std::vector<char> before[] = {input.bytes(), grad_.bytes(), weight_.bytes(), bias_.bytes()};
    Guarded workspace(plan.workspace_bytes, 1);
    std::memset(workspace.data(), 0xff,
                static_cast<size_t>(workspace.bytes()));  // NaN, should it be read before it is written
    Tensor output(problem, layout_, plan.channels_last != 0);
    Array weight_gradient(problem.c * problem.kh * problem.kw, problem.dtype);
    replk_buffers buffers = arguments(input, output, weight_gradient);
    buffers.packed = is_packed ? packed.data() : nullptr;
    buffers.workspace = workspace.data();
    buffers.workspace_bytes = plan.workspace_bytes;
    const int32_t status = replk_dwconv2d_run(&problem, &plan, &buffers);
    if (status != REPLK_OK) return fail(problem, plan, replk_status_string(status));

    if (!output.gaps_are_untouched() || !weight_gradient.slack_is_untouched() || !workspace.slack_is_untouched() ||
        !packed.slack_is_untouched()) {
      return fail(problem, plan, "wrote outside of its buffers");
    }
    if (before[0] != input.bytes() || before[1] != grad_.bytes() || before[2] != weight_.bytes() ||
        before[3] != bias_.bytes()) {
      return fail(problem, plan, "changed an input");
    }
    const bool is_stale =
        is_packed && layout_.packed == Packed::kStale && problem.n * problem.c * problem.h * problem.w > 0;
    if (buffers.packed_was_stale != (is_stale ? 1 : 0))
      return fail(problem, plan, "does not detect a stale prepared weight");
    return compare(problem, plan, problem.pass == REPLK_GRAD_WEIGHT ? weight_gradient.values() : output.values());
  }

 private:
  // The same case on absolute values. The pointer distinguishes it from the copy constructor.
  Case(const Case& other, const void*)
      : problem_(other.problem_),
        layout_(other.layout_),
        input_(problem_, layout_),
        grad_(problem_, layout_),
        weight_(problem_.c * problem_.kh * problem_.kw, problem_.dtype),
        other_weight_(0, problem_.dtype),
        bias_(problem_.c, problem_.dtype) {
    copy(other.input_, input_);
    copy(other.grad_, grad_);
    copy(other.weight_, weight_);
    copy(other.bias_, bias_);
    input_.take_absolute();
    grad_.take_absolute();
    weight_.take_absolute();
    bias_.take_absolute();
  }

  template <class Buffer>
  static void copy(const Buffer& from, Buffer& to) {
    const std::vector<char> bytes = from.bytes();
    if (!bytes.empty()) std::memcpy(to.data(), bytes.data(), bytes.size());
  }

  replk_buffers arguments(const Tensor& input, const Tensor& output, const Array& weight_gradient) const {
    const bool is_weight_gradient = problem_.pass == REPLK_GRAD_WEIGHT;
    replk_buffers b{};
    b.input = input.data();
    b.grad = is_weight_gradient ? grad_.data() : nullptr;
    b.weight = is_weight_gradient ? nullptr : weight_.data();
    b.bias = layout_.bias && problem_.pass == REPLK_FORWARD ? bias_.data() : nullptr;
    b.output = is_weight_gradient ? weight_gradient.data() : output.data();
    for (int i = 0; i < 3; ++i) {
      b.input_stride[i] = input.stride()[i];
      b.grad_stride[i] = grad_.stride()[i];
      b.output_stride[i] = output.stride()[i];
    }
    return b;
  }

  std::vector<float> reference() {
    replk_problem problem = problem_;
    problem.method = REPLK_METHOD_REFERENCE;
    problem.isa = REPLK_ISA_AUTO;
    problem.threads = 1;
    replk_plan plan;
    Tensor output(problem, layout_);
    Array weight_gradient(problem.c * problem.kh * problem.kw, problem.dtype);
    replk_buffers buffers = arguments(input_, output, weight_gradient);
    if (replk_dwconv2d_plan(&problem, &plan) != REPLK_OK || replk_dwconv2d_run(&problem, &plan, &buffers) != REPLK_OK) {
      std::fprintf(stderr, "the reference method refuses %s\n", describe(problem, plan).c_str());
      std::abort();
    }
    return problem.pass == REPLK_GRAD_WEIGHT ? weight_gradient.values() : output.values();
  }

  // The bound of direct sums is that of a dot product. The bound of FFTs is relative to the largest value of the plane
  // (or kernel) and to the largest sum of absolute products, because cancellation may make all values small.
  bool compare(const replk_problem& p, const replk_plan& plan, const std::vector<float>& found) const {
    const double rounding = p.dtype == REPLK_F32 ? 0x1p-24 : 0x1p-8;
    const bool uses_fft = kernel_of(p, plan).uses_fft != 0;
    const bool is_weight_gradient = p.pass == REPLK_GRAD_WEIGHT;
    const double terms = static_cast<double>(is_weight_gradient ? p.n * p.h * p.w : p.kh * p.kw) + 1;
    const size_t plane = static_cast<size_t>(is_weight_gradient ? p.kh * p.kw : p.h * p.w);
    for (size_t begin = 0; begin < found.size(); begin += plane) {
      double largest = 0, largest_sum = 0;
      for (size_t i = begin; i < begin + plane; ++i) {
        largest = std::fmax(largest, std::fabs(static_cast<double>(expected_[i])));
        largest_sum = std::fmax(largest_sum, static_cast<double>(absolute_[i]));
      }
      for (size_t i = begin; i < begin + plane; ++i) {
        const double error = std::fabs(static_cast<double>(found[i]) - expected_[i]);
        const double bound = uses_fft
                                 ? 1e-5 * largest + 8 * 0x1p-24 * largest_sum + 2 * rounding * std::fabs(expected_[i])
                                 : (terms * 0x1p-24 + 2 * rounding) * absolute_[i];
        if (!(error <= bound + 1e-37)) {  // also where it is NaN
          char text[160];
          std::snprintf(text, sizeof text, "element %zu is %.9g, not %.9g (error %.2e, bound %.2e)", i,
                        static_cast<double>(found[i]), static_cast<double>(expected_[i]), error, bound);
          return fail(p, plan, text);
        }
      }
    }
    return true;
  }

  static bool fail(const replk_problem& problem, const replk_plan& plan, const char* what) {
    std::fprintf(stderr, "FAILED %s: %s\n", describe(problem, plan).c_str(), what);
    return false;
  }

  replk_problem problem_;
  Layout layout_;
  Tensor input_, grad_;
  Array weight_, other_weight_, bias_;
  std::vector<float> expected_, absolute_;
};

}  // namespace replk_tests

#endif  // REPLK_TESTS_CHECKED_CALL_H_
