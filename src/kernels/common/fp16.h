// IEEE half precision as kernels see it: 1 sign, 5 exponent and 10 mantissa bits.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace fastwan::kernels {

struct Fp16 {
  uint16_t bits;
};

inline double to_double(Fp16 x) {
  const int exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
  double value = std::ldexp(1024 + mantissa, exponent - 25);
  if (exponent == 0) {
    value = std::ldexp(mantissa, -24);
  } else if (exponent == 31) {
    value = mantissa == 0 ? std::numeric_limits<double>::infinity()
                          : std::numeric_limits<double>::quiet_NaN();
  }
  return (x.bits & 0x8000U) != 0 ? -value : value;
}

}  // namespace fastwan::kernels
