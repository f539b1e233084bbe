// The order of an epoch: a Fisher-Yates shuffle driven by the counter-based generator.
#pragma once

#include <cstdint>
#include <vector>

namespace fastwan::data {

// A permutation of 0 .. size-1; the same on every rank and machine. Stream kPermutation, step =
// epoch, slot 0: for i = size-1 .. 1, element i changes places with element floor(u (i + 1)), where
// u = (a + (b + 1/2) / 2^24) / 2^24 in [0, 1) has 48 random bits, a and b those of the stream's
// elements 2i and 2i + 1. (One element's 24 bits would never name the places of a set above 2^24
// rows.)
std::vector<int64_t> epoch_permutation(uint64_t seed, int64_t epoch, int64_t size);

}  // namespace fastwan::data
