#include "common/task.h"
#include "cpu/simd/isa.h"

namespace replk {
namespace REPLK_ISA {

const Method fft_methods[3] = {};

}  // namespace REPLK_ISA
}  // namespace replk
