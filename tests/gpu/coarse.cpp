#include "tests/gpu/coarse.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace fastwan::gpu {
namespace {

std::vector<double> to_doubles(const std::vector<Bf16>& x) {
  std::vector<double> out;
  for (const Bf16 v : x) {
    out.push_back(to_float(v));
  }
  return out;
}

double as_bf16(double x) {
  return to_float(round_to_bf16(x));
}

std::size_t mean_size(const Problem& p) {
  return static_cast<std::size_t>(p.c.B * p.queries.num_tiles() * p.c.H * p.c.D);
}

std::vector<double> means_of(const Problem& p, const std::vector<Bf16>& x) {
  std::vector<double> means;
  const auto place = p.tokens(x.data(), p.queries);
  for (int64_t b = 0; b < p.c.B; ++b) {
    for (const auto& tile : p.queries.tokens) {
      for (int64_t h = 0; h < p.c.H; ++h) {
        for (int64_t d = 0; d < p.c.D; ++d) {
          double sum = 0;
          for (const int64_t token : tile) {
            sum += to_float(place.row(b, token, h)[d]);
          }
          means.push_back(sum / static_cast<double>(tile.size()));
        }
      }
    }
  }
  return means;
}

}  // namespace

CoarseStage::CoarseStage(const Problem& p)
    : q_mean_(mean_size(p)),
      k_mean_(mean_size(p)),
      v_mean_(mean_size(p)),
      out_(mean_size(p)),
      index_(p.index.size()),
      count_(p.count.size()) {
  const kernels::FineArgs f = p.forward_args(/*with_gate=*/false);
  pool_ = {.x = {f.q, f.k, f.v},
           .mean = {q_mean_.data(), k_mean_.data(), v_mean_.data()},
           .B = p.c.B,
           .H = p.c.H,
           .D = p.c.D,
           .grid = p.c.grid};
  select_ = {.q_mean = q_mean_.data(),
             .k_mean = k_mean_.data(),
             .v_mean = v_mean_.data(),
             .block_index = index_.data(),
             .block_count = count_.data(),
             .coarse = out_.data(),
             .B = p.c.B,
             .H = p.c.H,
             .N = p.queries.num_tiles(),
             .D = p.c.D,
             .K = p.c.K};
}

void CoarseStage::run(void* stream) const {
  kernels::cuda::tile_pool(pool_, stream);
  kernels::cuda::coarse_select(select_, stream);
}

CoarseResults CoarseStage::download() const {
  return {.means = {to_doubles(q_mean_.download()), to_doubles(k_mean_.download()),
                    to_doubles(v_mean_.download())},
          .out = to_doubles(out_.download()),
          .scores = {},
          .index = index_.download()};
}

CoarseResults coarse_reference(const Problem& p, const CoarseResults& device) {
  CoarseResults want{.means = {means_of(p, p.q), means_of(p, p.k), means_of(p, p.v)},
                     .out = std::vector<double>(device.out.size()),
                     .scores = {},
                     .index = {}};
  const int64_t N = p.queries.num_tiles(), H = p.c.H, D = p.c.D;
  const auto row = [&](int64_t b, int64_t n, int64_t h) {
    return static_cast<std::size_t>(((b * N + n) * H + h) * D);
  };
  for (int64_t b = 0; b < p.c.B; ++b) {
    for (int64_t h = 0; h < H; ++h) {
      for (int64_t i = 0; i < N; ++i) {
        std::vector<double> s;
        for (int64_t j = 0; j < N; ++j) {
          const double* q = &device.means[0][row(b, i, h)];
          const double dot = std::inner_product(q, q + D, &device.means[1][row(b, j, h)], 0.0);
          s.push_back(as_bf16(as_bf16(dot) / std::sqrt(static_cast<double>(D))));
        }
        const double top = *std::max_element(s.begin(), s.end());
        double sum = 0;
        for (const double x : s) {
          sum += std::exp(x - top);
        }
        for (int64_t j = 0; j < N; ++j) {
          const double weight = as_bf16(std::exp(s[static_cast<std::size_t>(j)] - top) / sum);
          for (int64_t d = 0; d < D; ++d) {
            want.out[row(b, i, h) + static_cast<std::size_t>(d)] +=
                weight * device.means[2][row(b, j, h) + static_cast<std::size_t>(d)];
          }
        }
        want.scores.insert(want.scores.end(), s.begin(), s.end());
      }
    }
  }
  return want;
}

std::string wrong_selection(const Problem& p, const CoarseResults& got, const CoarseResults& want) {
  const auto N = static_cast<std::size_t>(p.queries.num_tiles());
  const auto K = static_cast<std::size_t>(p.c.K);
  for (std::size_t row = 0; row < got.index.size() / K; ++row) {
    const double* s = &want.scores[row * N];
    std::vector<std::size_t> order(N);
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return s[a] > s[b]; });
    std::vector<std::size_t> expected(order.begin(),
                                      order.begin() + static_cast<std::ptrdiff_t>(K));
    std::sort(expected.begin(), expected.end());
    const double limit = s[order[K - 1]];
    const double near = std::abs(limit) / 100 + 1e-3;  // two roundings to bf16
    for (std::size_t i = 0; i < K; ++i) {
      const int32_t tile = got.index[row * K + i];
      const bool ascends = i == 0 || tile > got.index[row * K + i - 1];
      if (tile < 0 || static_cast<std::size_t>(tile) >= N || !ascends) {
        return "list " + std::to_string(row) + " is not ascending within the tiles";
      }
      const bool listed =
          std::binary_search(expected.begin(), expected.end(), static_cast<std::size_t>(tile));
      if (!listed && s[tile] < limit - near) {
        return "list " + std::to_string(row) + " holds tile " + std::to_string(tile);
      }
    }
  }
  return "";
}

}  // namespace fastwan::gpu
