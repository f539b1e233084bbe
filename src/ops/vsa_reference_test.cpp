#include "ops/vsa_reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace fastwan::ops::reference {
namespace {

using Row = const double*;

double dot(Row a, Row b, int64_t D) {
  double sum = 0;
  for (int64_t c = 0; c < D; ++c) {
    sum += a[c] * b[c];
  }
  return sum;
}

// Adds softmax(scores)_i * values[i] to out.
void add_softmax_average(const std::vector<double>& scores,
                         const std::vector<Row>& values,
                         int64_t D,
                         double* out) {
  const double top = *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (const double s : scores) {
    total += std::exp(s - top);
  }
  for (std::size_t i = 0; i < scores.size(); ++i) {
    const double weight = std::exp(scores[i] - top) / total;
    for (int64_t c = 0; c < D; ++c) {
      out[c] += weight * values[i][c];
    }
  }
}

// Tile of every token, tiles counted along W first.
std::vector<int64_t> tile_of_each_token(const Inputs& in) {
  std::vector<int64_t> tiles;
  for (int64_t t = 0; t < in.T; ++t) {
    for (int64_t h = 0; h < in.H; ++h) {
      for (int64_t w = 0; w < in.W; ++w) {
        tiles.push_back(((t / 4) * ((in.H + 3) / 4) + h / 4) * ((in.W + 3) / 4) + w / 4);
      }
    }
  }
  return tiles;
}

}  // namespace

Result video_sparse_attn(const Inputs& in, int64_t topk) {
  const std::vector<int64_t> tile = tile_of_each_token(in);
  const auto S = static_cast<int64_t>(tile.size());
  const auto N = static_cast<std::size_t>(*std::max_element(tile.begin(), tile.end()) + 1);
  const auto D = static_cast<std::size_t>(in.D);
  const double scale = 1.0 / std::sqrt(static_cast<double>(in.D));
  std::vector<std::vector<int64_t>> tokens(N);
  for (int64_t s = 0; s < S; ++s) {
    tokens[static_cast<std::size_t>(tile[static_cast<std::size_t>(s)])].push_back(s);
  }
  const auto means = [&](const std::vector<double>& x) {
    std::vector<std::vector<double>> mean(N, std::vector<double>(D, 0.0));
    for (std::size_t n = 0; n < N; ++n) {
      for (const int64_t s : tokens[n]) {
        for (std::size_t c = 0; c < D; ++c) {
          mean[n][c] +=
              x[static_cast<std::size_t>(s) * D + c] / static_cast<double>(tokens[n].size());
        }
      }
    }
    return mean;
  };
  const auto q_mean = means(in.q), k_mean = means(in.k), v_mean = means(in.v);
  Result result{.out = std::vector<double>(static_cast<std::size_t>(S) * D, 0.0),
                .chosen = {},
                .smallest_gap = std::numeric_limits<double>::infinity()};
  std::vector<Row> coarse_values;
  for (const auto& mean : v_mean) {
    coarse_values.push_back(mean.data());
  }
  for (std::size_t n = 0; n < N; ++n) {
    std::vector<double> coarse_scores;
    for (std::size_t m = 0; m < N; ++m) {
      coarse_scores.push_back(dot(q_mean[n].data(), k_mean[m].data(), in.D) * scale);
    }
    std::vector<int64_t> order(N);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return coarse_scores[static_cast<std::size_t>(a)] >
             coarse_scores[static_cast<std::size_t>(b)];
    });
    if (topk < static_cast<int64_t>(N)) {
      const auto score_of = [&](int64_t rank) {
        return coarse_scores[static_cast<std::size_t>(order[static_cast<std::size_t>(rank)])];
      };
      result.smallest_gap = std::min(result.smallest_gap, score_of(topk - 1) - score_of(topk));
    }
    order.resize(static_cast<std::size_t>(topk));
    std::sort(order.begin(), order.end());
    std::vector<double> coarse(D, 0.0);
    add_softmax_average(coarse_scores, coarse_values, in.D, coarse.data());
    for (const int64_t s : tokens[n]) {
      std::vector<double> scores;
      std::vector<Row> values;
      for (const int64_t m : order) {
        for (const int64_t key : tokens[static_cast<std::size_t>(m)]) {
          scores.push_back(dot(&in.q[static_cast<std::size_t>(s) * D],
                               &in.k[static_cast<std::size_t>(key) * D], in.D) *
                           scale);
          values.push_back(&in.v[static_cast<std::size_t>(key) * D]);
        }
      }
      double* out = &result.out[static_cast<std::size_t>(s) * D];
      add_softmax_average(scores, values, in.D, out);
      for (std::size_t c = 0; c < D && !in.gate.empty(); ++c) {
        out[c] += coarse[c] * in.gate[static_cast<std::size_t>(s) * D + c];
      }
    }
    result.chosen.push_back(order);
  }
  return result;
}

}  // namespace fastwan::ops::reference
