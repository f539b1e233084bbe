#include "base/rng.h"

#include <cmath>
#include <limits>
#include <numbers>

#include "base/check.h"

namespace fastwan {
namespace {

// Constants of the Philox4x32 paper.
constexpr uint32_t kMultiplier0 = 0xD2511F53;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9;
constexpr uint32_t kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

double to_uniform(uint32_t word) {
  return (static_cast<double>(word >> 8) + 0.5) * 0x1p-24;
}

uint32_t narrow(int64_t value, const char* claim) {
  invariant(value >= 0 && value <= std::numeric_limits<uint32_t>::max(), claim);
  return static_cast<uint32_t>(value);
}

}  // namespace

PhiloxWords philox4x32(PhiloxWords counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < kRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * counter[0];
    const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

Philox::Philox(uint64_t seed, Stream stream, int64_t step, int64_t slot, int64_t draw)
    : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
      slot_(narrow(slot, "slot fits 32 bits")),
      step_(narrow(step, "step fits 32 bits")),
      stream_and_draw_(static_cast<uint32_t>(stream) | narrow(draw, "draw fits 16 bits") << 16) {
  invariant(draw <= std::numeric_limits<uint16_t>::max(), "draw fits 16 bits");
}

PhiloxWords Philox::words(int64_t group) const {
  return philox4x32({narrow(group, "element / 4 fits 32 bits"), slot_, step_, stream_and_draw_},
                    key_);
}

void Philox::fill_normal(int64_t first_element, std::span<float> out) const {
  const auto count = static_cast<int64_t>(out.size());
  std::array<double, 4> normals{};
  int64_t filled_group = -1;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t element = first_element + i;
    if (element / 4 != filled_group) {
      filled_group = element / 4;
      const PhiloxWords w = words(filled_group);
      for (std::size_t pair = 0; pair < 4; pair += 2) {
        const double rho = std::sqrt(-2.0 * std::log(to_uniform(w[pair])));
        const double theta = 2.0 * std::numbers::pi * to_uniform(w[pair + 1]);
        normals[pair] = rho * std::cos(theta);
        normals[pair + 1] = rho * std::sin(theta);
      }
    }
    out[static_cast<std::size_t>(i)] =
        static_cast<float>(normals[static_cast<std::size_t>(element % 4)]);
  }
}

double Philox::uniform(int64_t element) const {
  return to_uniform(words(element / 4)[static_cast<std::size_t>(element % 4)]);
}

}  // namespace fastwan
