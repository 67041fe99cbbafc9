// Depthwise 2-D convolution on a CPU: the C interface of the library, the only header that bindings see.
//
//   forward      y[n,c,i,j]   = act(bias[c] + sum_{u,v} x[n,c,i+u-Kh/2,j+v-Kw/2] w[c,u,v])      act: none or ReLU
//   grad input   dx[n,c,i,j]  = sum_{u,v} dy[n,c,i-u+Kh/2,j-v+Kw/2] w[c,u,v]
//   grad weight  dw[c,u,v]    = sum_{n,i,j} dy[n,c,i,j] x[n,c,i+u-Kh/2,j+v-Kw/2]
//
// Stride 1, zero padding by half the kernel ("same"), odd kernels of any size, larger than the plane too. Sizes and
// strides are int64 in elements, never bytes. The innermost stride of every plane is 1; weights are dense [C,Kh,Kw].
// No function keeps a pointer, allocates memory that outlives it, throws, or writes anywhere but into the buffers that
// its arguments name as written. Every function may be called from several threads at once.
#ifndef REPLK_DWCONV2D_H_
#define REPLK_DWCONV2D_H_

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define REPLK_API __declspec(dllexport)
#else
#define REPLK_API __attribute__((visibility("default")))
#endif

// Raised whenever a struct, a value or the meaning of either changes.
#define REPLK_ABI_VERSION 3

enum replk_status {
  REPLK_OK = 0,
  REPLK_INVALID_ARGUMENT = 1,     // a size, stride, enumerator or pointer that no call may have
  REPLK_UNSUPPORTED = 2,          // the forced method or instruction set cannot do this problem here
  REPLK_WORKSPACE_TOO_SMALL = 3,  // workspace_bytes below what the plan asks for
  REPLK_OUT_OF_MEMORY = 4,        // pack() found no scratch memory
};

enum replk_dtype { REPLK_F32 = 0, REPLK_BF16 = 1 };  // of x, y, w, bias; sums are float32 inside

enum replk_pass { REPLK_FORWARD = 0, REPLK_GRAD_INPUT = 1, REPLK_GRAD_WEIGHT = 2 };

enum replk_activation { REPLK_NO_ACTIVATION = 0, REPLK_RELU = 1 };

enum replk_method {
  REPLK_METHOD_AUTO = 0,       // in a problem: the dispatch table chooses
  REPLK_METHOD_DIRECT = 1,     // register-blocked multiply-add over a zero-padded copy of the plane
  REPLK_METHOD_FFT = 2,        // product of spectra, tile by tile
  REPLK_METHOD_LANES = 3,      // neighbouring channels in the SIMD lanes, for small planes
  REPLK_METHOD_LANES_FFT = 4,  // product of spectra of whole small planes, neighbouring channels in the SIMD lanes
  REPLK_METHOD_REFERENCE = 5,  // plain loops with double accumulators: the oracle
  REPLK_METHOD_HOST = 6,       // in a plan only: none of these takes the problem: the host's own convolution has to
};

enum replk_isa { REPLK_ISA_AUTO = 0, REPLK_ISA_PORTABLE = 1, REPLK_ISA_AVX2 = 2, REPLK_ISA_AVX512 = 3 };

// What is to be computed.
typedef struct replk_problem {
  int32_t pass;        // replk_pass
  int32_t dtype;       // replk_dtype
  int32_t activation;  // replk_activation; forward only
  int32_t method;      // replk_method; AUTO, or the one to use
  int32_t isa;         // replk_isa; AUTO is the best that this CPU has
  int32_t threads;     // at most this many, >= 1
  int64_t n, c, h, w;  // >= 0
  int64_t kh, kw;      // odd, >= 1
  int32_t prepared;    // 1: run() will be given what pack() made, whose cost is then no reason to choose another method
} replk_problem;

// How it will be computed.
typedef struct replk_plan {
  int32_t method;           // replk_method
  int32_t isa;              // replk_isa
  int64_t tile_h, tile_w;   // FFT, lanes FFT: lengths of the transforms; else 0
  int64_t packed_bytes;     // size of the prepared weight that run() can be given; 0: this method keeps none
  int64_t workspace_bytes;  // scratch memory for run(), all threads together
} replk_plan;

// The buffers of one call. Strides in elements. Pointers need the alignment of their element type, no more.
typedef struct replk_buffers {
  const void* input;         // forward, grad weight: x; grad input: dy.  [N,C,H,W]
  int64_t input_stride[3];   // n, c, h
  const void* grad;          // grad weight: dy [N,C,H,W]; else null
  int64_t grad_stride[3];    // n, c, h
  const void* weight;        // [C,Kh,Kw]; null for grad weight
  const void* bias;          // [C] or null; forward only
  void* output;              // forward: y; grad input: dx [N,C,H,W]; grad weight: dw [C,Kh,Kw]. Written.
  int64_t output_stride[3];  // n, c, h; ignored for grad weight
  const void* packed;        // what pack() made of the weight, or null
  void* workspace;           // written; null where the plan asks for none
  int64_t workspace_bytes;
  int32_t packed_was_stale;  // written: 1 if packed was not made from this weight. The output is right all the same.
} replk_buffers;

// Version of this interface in the library; compare with REPLK_ABI_VERSION before anything else.
REPLK_API int32_t replk_abi_version(void);

// A static string for a replk_status.
REPLK_API const char* replk_status_string(int32_t status);

// Best instruction set that this CPU and operating system offer, as replk_isa.
REPLK_API int32_t replk_best_isa(void);

// Name of the compiler that built the library: a static string.
REPLK_API const char* replk_compiler(void);

// The host's OpenMP entry point, `GOMP_parallel` (libgomp, or libomp's function of that name), or null for none. With
// it, work runs on the threads that the host already has; without it, or in a forked child, each call starts its own.
REPLK_API void replk_set_gomp_parallel(void (*gomp_parallel)(void (*)(void*), void*, unsigned, unsigned));

// Choose method, instruction set and tile. `plan` is written; it is for this problem alone, number of threads included.
REPLK_API int32_t replk_dwconv2d_plan(const replk_problem* problem, replk_plan* plan);

// Prepare a weight [C,Kh,Kw] once for many calls; `packed` [plan->packed_bytes], 64-byte aligned, is written. The same
// packed weight serves forward and grad input of every batch size of the same plan.
REPLK_API int32_t replk_dwconv2d_pack(const replk_problem* problem, const replk_plan* plan, const void* weight,
                                      void* packed);

// Compute. `packed` may be null: the weight is then prepared inside the call.
REPLK_API int32_t replk_dwconv2d_run(const replk_problem* problem, const replk_plan* plan, replk_buffers* buffers);

// Multiply-add peak of `threads` threads from registers, 10^9 floating-point operations per second, measured for
// `seconds`: the roofline of direct methods. 0 where the instruction set is not to be had or an argument makes no
// sense.
REPLK_API double replk_measure_fma_peak(int32_t isa, int32_t threads, double seconds);

#ifdef __cplusplus
}
#endif

#endif  // REPLK_DWCONV2D_H_
