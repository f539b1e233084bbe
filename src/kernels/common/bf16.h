// bfloat16 as kernels see it: the upper half of a float.
#pragma once

#include <bit>
#include <cstdint>

namespace fastwan::kernels {

struct Bf16 {
  uint16_t bits;
};

inline double to_double(double x) {
  return x;
}
inline double to_double(float x) {
  return static_cast<double>(x);
}
inline double to_double(Bf16 x) {
  return static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16));
}

// Nearest, ties to even. A NaN stays one: its rounding could overflow into infinity.
inline Bf16 to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if (x != x) {
    return {static_cast<uint16_t>((bits >> 16) | 0x40U)};
  }
  return {static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16)};
}

inline void store(double x, double* to) {
  *to = x;
}
inline void store(double x, float* to) {
  *to = static_cast<float>(x);
}
inline void store(double x, Bf16* to) {
  *to = to_bf16(static_cast<float>(x));
}

}  // namespace fastwan::kernels
