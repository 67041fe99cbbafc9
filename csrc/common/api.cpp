// The exported functions: check the arguments, choose a method (dispatch.cpp), distribute the work.
#include <atomic>
#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "common/cpuid.h"
#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/task.h"
#include "replk/dwconv2d.h"

namespace replk {
namespace {

constexpr int64_t kScratchAlignment = 64;
constexpr int64_t kMostWorkspace = int64_t{64} << 20;  // bytes, for all threads together
constexpr int64_t kHeaderBytes = 64;                   // of a prepared weight, for its checksum and alignment

bool is_valid(const replk_problem& p) {
  // Bounds the sizes so that no index can overflow: 2^40 elements are far more than any memory holds.
  constexpr int64_t kMaxElements = int64_t{1} << 40;
  const int64_t sizes[] = {p.n, p.c, p.h, p.w};
  for (const int64_t size : sizes) {
    if (size < 0 || size > kMaxElements) return false;
  }
  if (p.kh < 1 || p.kw < 1 || p.kh % 2 == 0 || p.kw % 2 == 0) return false;
  if (p.kh > (int64_t{1} << 20) || p.kw > (int64_t{1} << 20)) return false;
  if (p.c > 0 && p.kh * p.kw > kMaxElements / p.c) return false;
  int64_t elements = 1;  // with zeros replaced by ones: products of some of the sizes are formed too
  for (const int64_t size : sizes) {
    const int64_t at_least_one = size < 1 ? 1 : size;
    if (elements > kMaxElements / at_least_one) return false;
    elements *= at_least_one;
  }
  return p.pass >= REPLK_FORWARD && p.pass <= REPLK_GRAD_WEIGHT && p.dtype >= REPLK_F32 && p.dtype <= REPLK_BF16 &&
         p.activation >= REPLK_NO_ACTIVATION && p.activation <= REPLK_RELU &&
         (p.activation == REPLK_NO_ACTIVATION || p.pass == REPLK_FORWARD) && p.method >= REPLK_METHOD_AUTO &&
         p.method <= REPLK_METHOD_REFERENCE && p.isa >= REPLK_ISA_AUTO && p.isa <= REPLK_ISA_NEON && p.threads >= 1 &&
         p.threads <= 1024 && (p.prepared == 0 || p.prepared == 1) && (p.channels_last == 0 || p.channels_last == 1);
}

// FNV-1a over 64-bit words.
uint64_t checksum(std::initializer_list<int64_t> words) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int64_t word : words) hash = (hash ^ static_cast<uint64_t>(word)) * 0x100000001b3u;
  return hash;
}

uint64_t checksum_of_plan(const replk_problem& p, const replk_plan& plan) {
  return checksum({p.pass,
                   p.dtype,
                   p.activation,
                   p.method,
                   p.isa,
                   p.threads,
                   p.n,
                   p.c,
                   p.h,
                   p.w,
                   p.kh,
                   p.kw,
                   p.prepared,
                   p.channels_last,
                   plan.method,
                   plan.isa,
                   plan.channels_last,
                   plan.tile_h,
                   plan.tile_w,
                   plan.packed_bytes,
                   plan.workspace_bytes});
}

// Checksum of everything except its values that a prepared weight depends on.
uint64_t checksum_of_packed(const replk_problem& p, const replk_plan& plan) {
  return checksum(
      {p.dtype, p.c, p.h, p.w, p.kh, p.kw, plan.method, plan.isa, plan.tile_h, plan.tile_w, plan.packed_bytes});
}

// Threads for a problem: limited by the number of items and by the bound on the workspace.
int team_size(const replk_problem& p, int64_t items, int64_t scratch_bytes) {
  int64_t threads = items < p.threads ? items : p.threads;
  if (scratch_bytes > 0 && threads * scratch_bytes > kMostWorkspace) threads = kMostWorkspace / scratch_bytes;
  return static_cast<int>(threads < 1 ? 1 : threads);
}

struct RunContext {
  const Task& task;
  const Method& method;
  char* scratch;
  int64_t scratch_bytes;
};

void run_piece(void* context, int64_t begin, int64_t end, int thread) {
  const RunContext& run = *static_cast<RunContext*>(context);
  run.method.run(run.task, begin, end, run.scratch + thread * run.scratch_bytes);
}

struct PackContext {
  const replk_problem& problem;
  const replk_plan& plan;
  const Method& method;
  const void* weight;
  char* packed;
  char* scratch;
  int64_t scratch_bytes;
};

void pack_piece(void* context, int64_t begin, int64_t end, int thread) {
  const PackContext& pack = *static_cast<PackContext*>(context);
  pack.method.pack(pack.problem, pack.plan, pack.weight, pack.packed, begin, end,
                   pack.scratch + thread * pack.scratch_bytes);
}

// Requests large pages for the output: the page faults of newly mapped memory take as long as the convolution itself.
// Measured on 2 cores of an Intel Xeon with AMX (family 6, model 167), transparent_hugepage=madvise, medians of 24
// calls with and without: (1,128,256,256), K = 31: 13.8 and 21.2 ms; K = 3: 6.3 and 12.7 ms; (4,256,128,128), K =
// 13: 19.3 and 36.5 ms. Below 32 MB glibc reuses memory, and nothing is gained.
void prefer_large_pages(void* pointer, int64_t bytes) {
#if defined(__linux__)
  constexpr int64_t kFrom = int64_t{32} << 20;
  constexpr uintptr_t kPage = 4096;
  if (bytes < kFrom) return;
  const uintptr_t first = (reinterpret_cast<uintptr_t>(pointer) + kPage - 1) / kPage * kPage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(pointer) + static_cast<uintptr_t>(bytes)) / kPage * kPage;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // only advice: a failure has no effect
#else
  (void)pointer;
  (void)bytes;
#endif
}

char* aligned(void* pointer) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  return reinterpret_cast<char*>((address + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment);
}

}  // namespace
}  // namespace replk

using namespace replk;

int32_t replk_abi_version(void) { return REPLK_ABI_VERSION; }

const char* replk_status_string(int32_t status) {
  switch (status) {
    case REPLK_OK:
      return "ok";
    case REPLK_INVALID_ARGUMENT:
      return "invalid argument";
    case REPLK_UNSUPPORTED:
      return "the requested method or instruction set cannot compute this problem";
    case REPLK_WORKSPACE_TOO_SMALL:
      return "the workspace is too small";
    case REPLK_OUT_OF_MEMORY:
      return "out of memory";
    case REPLK_PLAN_MISMATCH:
      return "the plan was made for another problem";
    case REPLK_PACKED_MISMATCH:
      return "the prepared weight was made for another plan";
    default:
      return "unknown status";
  }
}

int32_t replk_best_isa(void) { return best_isa(); }

const char* replk_compiler(void) {
#if defined(__clang__)
  return "clang " __clang_version__;
#elif defined(__GNUC__)
  return "g++ " __VERSION__;
#elif defined(_MSC_VER)
  return "MSVC";
#else
  return "unknown";
#endif
}

void replk_set_gomp_parallel(void (*gomp_parallel)(void (*)(void*), void*, unsigned, unsigned)) {
  set_gomp_parallel(gomp_parallel);
}

int32_t replk_dwconv2d_kernel(int32_t index, replk_kernel* kernel) {
  return kernel && index >= 0 && describe_kernel(index, *kernel) ? REPLK_OK : REPLK_INVALID_ARGUMENT;
}

int32_t replk_dwconv2d_plan(const replk_problem* problem, replk_plan* plan) {
  if (!problem || !plan || !is_valid(*problem)) return REPLK_INVALID_ARGUMENT;
  if (!choose(*problem, *plan)) return REPLK_UNSUPPORTED;
  if (plan->packed_bytes > 0) plan->packed_bytes += kHeaderBytes;
  if (const Method* method = find_method(*problem, *plan)) {
    const int64_t scratch = method->scratch_bytes(*problem, *plan);
    if (scratch > 0) {
      plan->workspace_bytes =
          team_size(*problem, method->items(*problem, *plan), scratch) * scratch + kScratchAlignment;
    }
  }
  plan->checksum = checksum_of_plan(*problem, *plan);
  return REPLK_OK;
}

int32_t replk_dwconv2d_pack(const replk_problem* problem, const replk_plan* plan, const void* weight, void* packed) {
  if (!problem || !plan || !is_valid(*problem)) return REPLK_INVALID_ARGUMENT;
  if (plan->checksum != checksum_of_plan(*problem, *plan)) return REPLK_PLAN_MISMATCH;
  const Method* method = find_method(*problem, *plan);
  if (!method || !method->pack || plan->packed_bytes <= 0) return REPLK_UNSUPPORTED;
  if (!weight || !packed) return REPLK_INVALID_ARGUMENT;
  const int64_t scratch_bytes = method->scratch_bytes(*problem, *plan);
  const int threads = team_size(*problem, problem->c, scratch_bytes);
  char* memory = static_cast<char*>(
      ::operator new(static_cast<std::size_t>(threads * scratch_bytes + kScratchAlignment), std::nothrow));
  if (!memory) return REPLK_OUT_OF_MEMORY;
  const uint64_t header[kHeaderBytes / 8] = {checksum_of_packed(*problem, *plan)};
  std::memcpy(packed, header, sizeof header);
  char* spectra = static_cast<char*>(packed) + kHeaderBytes;
  PackContext context{*problem, *plan, *method, weight, spectra, aligned(memory), scratch_bytes};
  parallel_for(problem->c, threads, pack_piece, &context);
  ::operator delete(memory);
  return REPLK_OK;
}

int32_t replk_dwconv2d_run(const replk_problem* problem, const replk_plan* plan, replk_buffers* buffers) {
  if (!problem || !plan || !buffers || !is_valid(*problem)) return REPLK_INVALID_ARGUMENT;
  if (plan->checksum != checksum_of_plan(*problem, *plan)) return REPLK_PLAN_MISMATCH;
  const Method* method = find_method(*problem, *plan);
  if (!method) return REPLK_UNSUPPORTED;
  buffers->packed_was_stale = 0;
  const bool is_weight_gradient = problem->pass == REPLK_GRAD_WEIGHT;
  const int64_t items = method->items(*problem, *plan);
  if (items == 0) return REPLK_OK;
  const bool has_input = problem->n * problem->h * problem->w > 0;
  if (!buffers->output || (has_input && !buffers->input)) return REPLK_INVALID_ARGUMENT;
  if (is_weight_gradient ? has_input && !buffers->grad : !buffers->weight) return REPLK_INVALID_ARGUMENT;
  if (buffers->bias && problem->pass != REPLK_FORWARD) return REPLK_INVALID_ARGUMENT;
  const char* packed = static_cast<const char*>(buffers->packed);
  if (packed) {
    uint64_t header = 0;
    if (plan->packed_bytes > 0) std::memcpy(&header, packed, sizeof header);
    if (header != checksum_of_packed(*problem, *plan)) return REPLK_PACKED_MISMATCH;
    packed += kHeaderBytes;
  }
  if (plan->workspace_bytes > 0 && (!buffers->workspace || buffers->workspace_bytes < plan->workspace_bytes)) {
    return REPLK_WORKSPACE_TOO_SMALL;
  }
  const int64_t* stride = buffers->output_stride;
  const bool is_dense = stride[0] == problem->c * problem->h * problem->w &&
                        (plan->channels_last ? stride[1] == problem->c && stride[2] == problem->w * problem->c
                                             : stride[1] == problem->h * problem->w && stride[2] == problem->w);
  if (!is_weight_gradient && is_dense) {
    prefer_large_pages(buffers->output, problem->n * buffers->output_stride[0] * (problem->dtype == REPLK_F32 ? 4 : 2));
  }
  std::atomic<int32_t> stale{0};
  const Task task{*problem, *plan, *buffers, packed, stale};
  const int64_t scratch_bytes = method->scratch_bytes(*problem, *plan);
  RunContext context{task, *method, aligned(buffers->workspace), scratch_bytes};
  parallel_for(items, team_size(*problem, items, scratch_bytes), run_piece, &context);
  buffers->packed_was_stale = stale.load();
  return REPLK_OK;
}
