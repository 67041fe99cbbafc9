# Compiler flags of the library, read by setup.py and tests/Makefile: one `NAME = flags` per line, nothing else.
#
# Floating-point traps and errno are disabled, but no option may change results, such as -ffast-math. Compilers differ in
# whether they fuse multiplications and additions by default, so fusing is requested.
FLAGS = -std=c++17 -fno-math-errno -fno-trapping-math -ffp-contract=fast
POSIX_FLAGS = -fPIC -fvisibility=hidden -pthread
# The instruction sets other than `portable` that the kernels are compiled for, by their names in the sources, on each
# architecture, named as by the compiler's -dumpmachine. NEON needs no flags: it is part of aarch64.
ISAS_x86_64 = avx2 avx512
ISAS_aarch64 = neon
FLAGS_avx2 = -mavx2 -mfma
FLAGS_avx512 = -mavx512f -mavx512dq -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512
# Files in cpu/ that are compiled once; every other one is compiled for each instruction set.
ONCE = dwconv2d_ref
