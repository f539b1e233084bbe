#include "tests/gpu/parts.h"

#include <cmath>
#include <limits>
#include <random>
#include <type_traits>

#include <cuda_fp16.h>

#include "kernels/block_select/block_select.h"
#include "kernels/tile_mean/tile_mean.h"
#include "tests/gpu/device.h"

namespace fastwan::gpu {
namespace {

using kernels::Bf16;
using kernels::Fp16;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

void put(double x, float* to) {
  *to = static_cast<float>(x);
}
void put(double x, Bf16* to) {
  kernels::store(x, to);
}
void put(double x, Fp16* to) {
  *to = {__half_as_ushort(__float2half(static_cast<float>(x)))};
}

template <class Element>
constexpr const char* kTypeName = std::is_same_v<Element, float>  ? "float32"
                                  : std::is_same_v<Element, Bf16> ? "bf16"
                                                                  : "fp16";

template <class Element>
std::vector<Element> as(const std::vector<double>& from) {
  std::vector<Element> to(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) {
    put(from[i], &to[i]);
  }
  return to;
}

template <class Element>
std::vector<double> in_double(const std::vector<Element>& from) {
  std::vector<double> to(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) {
    to[i] = kernels::to_double(from[i]);
  }
  return to;
}

// Half an ulp of the result, of the largest value that a sum in float32 can be off by: 63 additions
// and a division of magnitudes below 5.
template <class Element>
bool mean_holds_in(const kernels::TileDims& d, const std::vector<int32_t>& sizes) {
  std::mt19937_64 random(17);
  std::normal_distribution<double> normal;
  std::vector<double> values(static_cast<std::size_t>(d.B * d.N * d.T * d.H * d.D));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const int64_t slot = static_cast<int64_t>(i) / (d.H * d.D);
    const bool padding = slot % d.T >= sizes[static_cast<std::size_t>(slot / d.T % d.N)];
    values[i] = padding ? kNaN : normal(random);
  }
  const std::vector<Element> x = as<Element>(values);
  const std::vector<double> exact_x = in_double(x);
  std::vector<double> want(static_cast<std::size_t>(d.B * d.N * d.H * d.D));
  kernels::ref::tile_mean<double>(
      {.x = exact_x.data(), .len = sizes.data(), .out = want.data(), .dims = d});
  const DeviceArray<Element> d_x(x), d_out(want.size());
  const DeviceArray<int32_t> d_len(sizes);
  const kernels::TileMeanArgs<Element> args{
      .x = d_x.data(), .len = d_len.data(), .out = d_out.data(), .dims = d};
  kernels::cuda::tile_mean(args, nullptr);
  check(cudaDeviceSynchronize(), "tile_mean");
  const std::vector<double> got = in_double(d_out.download());
  const double half_ulp = std::is_same_v<Element, float>  ? 0x1p-24
                          : std::is_same_v<Element, Bf16> ? 0x1p-8
                                                          : 0x1p-11;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double bound = 64 * 0x1p-24 * 5 + half_ulp * std::abs(want[i]);
    if (!(std::abs(got[i] - want[i]) <= bound)) {
      std::printf("  FAILED tile_mean %s: element %zu is %.9g, exactly %.9g\n", kTypeName<Element>,
                  i, got[i], want[i]);
      return false;
    }
  }
  return true;
}

// Scores on a coarse raster, so that most rows have ties at the threshold; every fifth row also
// holds zeros of both signs, infinities and NaN.
std::vector<double> make_scores(int64_t rows, int64_t N) {
  std::mt19937_64 random(23);
  std::uniform_int_distribution<int> step(-40, 40), special(0, 15);
  std::vector<double> scores(static_cast<std::size_t>(rows * N));
  const double specials[] = {0.0, -0.0, kInfinity, -kInfinity, kNaN, -kNaN};
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const int which = special(random);
    const bool is_special = static_cast<int64_t>(i) / N % 5 == 4 && which < 6;
    scores[i] = is_special ? specials[which] : step(random) * 0x1p-9;
  }
  return scores;
}

template <class Element>
bool select_holds_in(const kernels::SelectDims& d) {
  const std::vector<Element> scores = as<Element>(make_scores(d.R, d.N));
  std::vector<int32_t> want(static_cast<std::size_t>(d.R * d.K));
  kernels::ref::block_select<Element>({.scores = scores.data(), .index = want.data(), .dims = d});
  const DeviceArray<Element> d_scores(scores);
  DeviceArray<int32_t> d_index(want.size());
  d_index.fill_bytes(0xFF);
  kernels::cuda::block_select(
      kernels::BlockSelectArgs<Element>{
          .scores = d_scores.data(), .index = d_index.data(), .dims = d},
      nullptr);
  check(cudaDeviceSynchronize(), "block_select");
  const std::vector<int32_t> got = d_index.download();
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (got[i] != want[i]) {
      std::printf("  FAILED block_select %s, %ld of %ld: place %zu holds tile %d, not %d\n",
                  kTypeName<Element>, static_cast<long>(d.K), static_cast<long>(d.N), i, got[i],
                  want[i]);
      return false;
    }
  }
  return true;
}

}  // namespace

bool tile_mean_holds() {
  bool ok = true;
  for (const kernels::TileDims& d : {kernels::TileDims{.B = 2, .N = 5, .T = 64, .H = 3, .D = 128},
                                     kernels::TileDims{.B = 1, .N = 5, .T = 7, .H = 1, .D = 5}}) {
    const auto all = static_cast<int32_t>(d.T);
    const std::vector<int32_t> sizes{all, 1, all - 1, 2, all / 2};
    ok &= mean_holds_in<float>(d, sizes) && mean_holds_in<Bf16>(d, sizes) &&
          mean_holds_in<Fp16>(d, sizes);
  }
  return ok;
}

bool block_select_holds() {
  bool ok = true;
  for (const int64_t N : {1, 31, 32, 33, 364, 1440}) {
    for (const int64_t K : {int64_t{1}, (N + 4) / 5, N}) {
      const kernels::SelectDims d{.R = 37, .N = N, .K = K};
      ok &= select_holds_in<float>(d) && select_holds_in<Bf16>(d) && select_holds_in<Fp16>(d);
    }
  }
  return ok;
}

}  // namespace fastwan::gpu
