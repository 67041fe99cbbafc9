// Depthwise 2-D convolution and GELU on a CPU: the C interface of the library and the only header that bindings
// include.
//
//   forward      y[n,c,i,j]   = act(bias[c] + sum_{u,v} x[n,c,i+u-Kh/2,j+v-Kw/2] w[c,u,v])      act: none or ReLU
//   grad input   dx[n,c,i,j]  = sum_{u,v} dy[n,c,i-u+Kh/2,j-v+Kw/2] w[c,u,v]
//   grad weight  dw[c,u,v]    = sum_{n,i,j} dy[n,c,i,j] x[n,c,i+u-Kh/2,j+v-Kw/2]
//
// Stride 1, zero padding by half the kernel ("same"), odd kernels of any size, also larger than the plane. Sizes and
// strides are int64 and count elements, never bytes. The innermost stride of every plane is 1, in channels-last tensors
// that of the channels; weights are dense [C,Kh,Kw]. No function keeps a pointer, allocates memory that outlives the
// call, throws, or writes outside the buffers that are documented as written. Every function may be called from several
// threads at once.
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

// Incremented whenever a struct, a value or the meaning of either changes.
#define REPLK_ABI_VERSION 6

enum replk_status {
  REPLK_OK = 0,
  REPLK_INVALID_ARGUMENT = 1,     // a size, stride, enumerator or pointer is outside its documented range
  REPLK_UNSUPPORTED = 2,          // the requested method or instruction set cannot compute this problem
  REPLK_WORKSPACE_TOO_SMALL = 3,  // workspace_bytes is less than the plan requires
  REPLK_OUT_OF_MEMORY = 4,        // pack() could not allocate scratch memory
  REPLK_PLAN_MISMATCH = 5,        // the plan was made for another problem, or was changed
  REPLK_PACKED_MISMATCH = 6,      // the prepared weight was made for another plan, or is no prepared weight
};

enum replk_dtype { REPLK_F32 = 0, REPLK_BF16 = 1 };  // of x, y, w and bias; sums are accumulated in float32

enum replk_pass { REPLK_FORWARD = 0, REPLK_GRAD_INPUT = 1, REPLK_GRAD_WEIGHT = 2 };

// Convolutions have the first two, pointwise layers all.
enum replk_activation { REPLK_NO_ACTIVATION = 0, REPLK_RELU = 1, REPLK_GELU = 2, REPLK_RELU6 = 3 };

enum replk_method {
  REPLK_METHOD_AUTO = 0,         // in a problem: the method with the lowest estimated time
  REPLK_METHOD_DIRECT = 1,       // register-blocked multiply-add over a zero-padded copy of the plane
  REPLK_METHOD_FFT = 2,          // overlap-save FFT, tile by tile
  REPLK_METHOD_BLOCKED = 3,      // direct sums in a channel-blocked layout
  REPLK_METHOD_BLOCKED_PFA = 4,  // prime-factor FFT of whole small planes in a channel-blocked layout
  REPLK_METHOD_REFERENCE = 5,    // plain loops with double accumulators, for tests
  REPLK_METHOD_HOST = 6,         // in a plan only: no method supports the problem; use the host's own convolution
};

enum replk_isa {
  REPLK_ISA_AUTO = 0,
  REPLK_ISA_PORTABLE = 1,  // any CPU
  REPLK_ISA_AVX2 = 2,      // x86-64
  REPLK_ISA_AVX512 = 3,    // x86-64
  REPLK_ISA_NEON = 4,      // 64-bit Arm
};

// What to compute.
typedef struct replk_problem {
  int32_t pass;        // replk_pass
  int32_t dtype;       // replk_dtype
  int32_t activation;  // replk_activation; forward only
  int32_t method;      // replk_method: AUTO, or the one to use
  int32_t isa;         // replk_isa: AUTO is the best one that this CPU supports
  int32_t threads;     // maximum number of threads, 1 to 1024
  int64_t n, c, h, w;  // >= 0
  int64_t kh, kw;      // odd, >= 1
  int32_t prepared;    // 1: run() will be given a prepared weight, so that AUTO does not count the time to prepare it
  int32_t channels_last;  // 1: the host's tensors are channels-last, so that AUTO counts the time to convert them
} replk_problem;

// How to compute it.
typedef struct replk_plan {
  int32_t method;           // replk_method
  int32_t isa;              // replk_isa
  int32_t channels_last;    // 1: run() takes channels-last tensors; 0: planes, to which the host converts others
  int64_t tile_h, tile_w;   // lengths of the transforms of FFT and BLOCKED_PFA; 0 for the other methods
  int64_t packed_bytes;     // size of the prepared weight that run() accepts; 0: this method does not prepare weights
  int64_t workspace_bytes;  // scratch memory for run(), for all threads together
  uint64_t checksum;        // of the problem and of the fields above
} replk_plan;

// The buffers of one call. Strides count elements, of the axes n, c and h, or n, w and h if the plan is channels-last.
// Pointers need the alignment of their element type, no more.
typedef struct replk_buffers {
  const void* input;  // forward and grad weight: x; grad input: dy.  [N,C,H,W]
  int64_t input_stride[3];
  const void* grad;  // grad weight: dy [N,C,H,W]; otherwise null
  int64_t grad_stride[3];
  const void* weight;        // [C,Kh,Kw]; null for grad weight
  const void* bias;          // [C] or null; forward only
  void* output;              // forward: y; grad input: dx [N,C,H,W]; grad weight: dw [C,Kh,Kw]. Written.
  int64_t output_stride[3];  // ignored for grad weight
  const void* packed;        // the weight as prepared by pack(), or null
  void* workspace;           // written; null if the plan needs none
  int64_t workspace_bytes;
  int32_t packed_was_stale;  // written: 1 if packed was made from other values than weight. The output is correct.
} replk_buffers;

// One compiled kernel.
typedef struct replk_kernel {
  char name[48];     // method, instruction set, dtype and pass, separated by blanks: "fft avx2 bfloat16 grad_input"
  int32_t method;    // replk_method
  int32_t isa;       // replk_isa
  int32_t dtype;     // replk_dtype
  int32_t pass;      // replk_pass
  int32_t uses_fft;  // 1: rounding errors are relative to the whole tile; 0: to the sum of absolute products
} replk_kernel;

// Version of this interface in the library. Compare it with REPLK_ABI_VERSION before calling anything else.
REPLK_API int32_t replk_abi_version(void);

// A static string that describes a replk_status.
REPLK_API const char* replk_status_string(int32_t status);

// The best instruction set that this CPU, its operating system and the library support, as replk_isa.
REPLK_API int32_t replk_best_isa(void);

// Name of the compiler that built the library: a static string.
REPLK_API const char* replk_compiler(void);

// Enumerate the kernels that this CPU can run: writes number `index` (from 0) to `kernel`, or returns
// REPLK_INVALID_ARGUMENT after the last one.
REPLK_API int32_t replk_dwconv2d_kernel(int32_t index, replk_kernel* kernel);

// Set the host's OpenMP entry point `GOMP_parallel` (of libgomp, or of libomp), or null for none. With it, work runs on
// the threads of the host; without it, or in a forked child process, each call starts its own threads.
REPLK_API void replk_set_gomp_parallel(void (*gomp_parallel)(void (*)(void*), void*, unsigned, unsigned));

// Choose method, instruction set and tile. `plan` is written; it is valid for exactly this problem, threads included.
REPLK_API int32_t replk_dwconv2d_plan(const replk_problem* problem, replk_plan* plan);

// Prepare a weight [C,Kh,Kw] for many calls. `packed` [plan->packed_bytes], 64-byte aligned, is written. The prepared
// weight is valid for forward and grad input and every batch size, if method, instruction set and tile are the same.
REPLK_API int32_t replk_dwconv2d_pack(const replk_problem* problem, const replk_plan* plan, const void* weight,
                                      void* packed);

// Compute. If `packed` is null, the weight is prepared inside the call.
REPLK_API int32_t replk_dwconv2d_run(const replk_problem* problem, const replk_plan* plan, replk_buffers* buffers);

// GELU (the exact form, y = x Phi(x) with the normal distribution Phi) of float32 maps, with what global response
// normalization needs. Maps are dense [rows,columns], one row for each image and channel, and may be aligned to their
// elements only. `isa` is a replk_isa, `threads` 1 to 1024; results do not depend on `threads`. If u is 2^-24, y has an
// error of at most (8 + 2 x^2) u |y|, and its derivative one of (8 + 2 x^2) u (1 + |x|).
//
// y, and the sums of y^2 over each row: `output` [rows,columns] and `squares` [rows] are written.
REPLK_API int32_t replk_gelu_forward(int32_t isa, int32_t threads, int64_t rows, int64_t columns, const float* input,
                                     float* output, double* squares);

// The sums of y grad over each row: `products` [rows] is written.
REPLK_API int32_t replk_gelu_products(int32_t isa, int32_t threads, int64_t rows, int64_t columns, const float* input,
                                      const float* grad, double* products);

// y' (grad_scale grad + output_scale y), with the derivative y' and one scale of each kind [rows] for every row:
// `output` [rows,columns], which may be `grad` or `input`, is written.
REPLK_API int32_t replk_gelu_grad_input(int32_t isa, int32_t threads, int64_t rows, int64_t columns, const float* input,
                                        const float* grad, const float* grad_scale, const float* output_scale,
                                        float* output);

// What follows and precedes the matrix products of a pointwise layer. Matrices are [rows,columns]; strides count
// elements from row to row and are at least `columns`.
typedef struct replk_pointwise {
  int64_t rows, columns;
  int32_t activation;       // replk_activation; GELU is the exact form
  int32_t bias_of_columns;  // 0: one bias for each row; 1: one for each column
  int32_t input_dtype;      // replk_dtype
  int32_t output_dtype;     // replk_dtype
  const void* input;        // forward: the product; backward: the gradient of the activation
  int64_t input_stride;
  const float* bias;      // or null; forward only
  const float* residual;  // or null; forward only
  int64_t residual_stride;
  void* output;  // written; may be `input` if types and strides are equal
  int64_t output_stride;
  uint16_t* derivative;  // forward: written, or null; backward: read. An error of at most 2^-16 / 1.5
  int64_t derivative_stride;
} replk_pointwise;

// output = residual + activation(input + bias), and derivative = activation'(input + bias), with errors as for GELU
// above.
REPLK_API int32_t replk_pointwise_forward(int32_t isa, int32_t threads, const replk_pointwise* call);

// output = input * derivative, and 0 where the derivative is 0.
REPLK_API int32_t replk_pointwise_backward(int32_t isa, int32_t threads, const replk_pointwise* call);

// Measure the multiply-add peak of `threads` threads from registers for `seconds` (0 to 60), in 10^9 floating-point
// operations per second: the roofline of direct methods. Returns 0 for an unavailable instruction set or an invalid
// argument.
REPLK_API double replk_measure_fma_peak(int32_t isa, int32_t threads, double seconds);

#ifdef __cplusplus
}
#endif

#endif  // REPLK_DWCONV2D_H_
