// Counter-based noise: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011), keyed by seed, stream, step and slot, never by rank or thread.
//
//   key      (seed low, seed high)
//   counter  (element / 4, slot, step, stream | draw << 16)
//   uniform  u = ((w >> 8) + 0.5) * 2^-24
//   normal   words (w0, w1): rho = sqrt(-2 ln u0), theta = 2 pi u1, elements 0, 1 = (rho cos theta,
//   rho sin theta);
//            words (w2, w3) give elements 2, 3; all in fp64, rounded once to fp32
//
// Elements are counted in the canonical order [C, T, H, W] of one sample.
#pragma once

#include <array>
#include <cstdint>
#include <span>

namespace fastwan {

// Fixed integers: saved runs and stored noise depend on them. Append, never renumber.
enum class Stream : uint16_t {
  kPermutation = 1,
  kCfgDrop = 2,
  kFlowTimestep = 3,
  kFlowNoise = 4,
  kStudentRollout = 5,
  kStudentStart = 6,
  kStudentRenoise = 7,
  kStudentTimestep = 8,
  kStudentNoise = 9,
  kFakeRollout = 10,
  kFakeStart = 11,
  kFakeRenoise = 12,
  kFakeTimestep = 13,
  kFakeNoise = 14,
  kValidation = 15,
  kSynth = 16,
  kStochasticRound = 17,
  kInit = 18,
  kData = 19,
  kInitial = 20,  // a request's starting latents
  kRenoise = 21,  // few-step re-noise; step = number of the transition, from 1
  kStudentRegression = 22,
};

using PhiloxWords = std::array<uint32_t, 4>;

// The bijection itself: ten rounds.
PhiloxWords philox4x32(PhiloxWords counter, std::array<uint32_t, 2> key);

class Philox {
 public:
  // `slot` is the sample's place in the global batch; a generated video uses seed + its index, slot
  // 0.
  Philox(uint64_t seed, Stream stream, int64_t step, int64_t slot, int64_t draw = 0);

  // Element i of the stream goes to out[i - first_element]; any split of a range gives the same
  // numbers.
  void fill_normal(int64_t first_element, std::span<float> out) const;
  // One uniform number in (0, 1) for element i.
  double uniform(int64_t element) const;

 private:
  PhiloxWords words(int64_t group) const;

  std::array<uint32_t, 2> key_;
  uint32_t slot_;
  uint32_t step_;
  uint32_t stream_and_draw_;
};

}  // namespace fastwan
