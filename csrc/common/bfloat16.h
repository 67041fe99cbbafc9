// bfloat16 in scalar code: the upper half of a float32.
#ifndef REPLK_COMMON_BFLOAT16_H_
#define REPLK_COMMON_BFLOAT16_H_

#include <cstdint>
#include <cstring>

namespace replk {

static inline float bfloat16_to_float(uint16_t value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// Rounds to nearest, ties to even; keeps NaN.
static inline uint16_t float_to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace replk

#endif  // REPLK_COMMON_BFLOAT16_H_
