#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/block_attention/block_attention.h"

namespace fastwan::kernels::ref {
namespace {

template <class Element>
double dot(const Element* a, const Element* b, int64_t D) {
  double sum = 0;
  for (int64_t c = 0; c < D; ++c) {
    sum += to_double(a[c]) * to_double(b[c]);
  }
  return sum;
}

// Token indices of the keys that query tile n of head (b, h) meets.
template <class Element>
std::vector<int64_t> keys_of(const BlockAttentionArgs<Element>& a, int64_t bhn, int64_t K) {
  std::vector<int64_t> keys;
  for (int32_t i = 0; i < a.list.count[bhn]; ++i) {
    const int64_t tile = a.list.index[bhn * K + i];
    for (int64_t t = 0; t < a.list.kv_sizes[tile]; ++t) {
      keys.push_back(tile * a.dims.Tk + t);
    }
  }
  return keys;
}

}  // namespace

template <class Element>
void block_attention(const BlockAttentionArgs<Element>& a) {
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  for (int64_t bhn = 0; bhn < B * H * Nq; ++bhn) {
    const int64_t b = bhn / (H * Nq), h = bhn / Nq % H, n = bhn % Nq;
    const std::vector<int64_t> keys = keys_of(a, bhn, K);
    for (int64_t t = 0; t < Tq; ++t) {
      const int64_t s = n * Tq + t;
      const bool attends = t < a.list.q_sizes[n] && !keys.empty();
      std::vector<double> score(keys.size());
      double top = -std::numeric_limits<double>::infinity(), sum = 0;
      for (std::size_t i = 0; attends && i < keys.size(); ++i) {
        score[i] = a.scale * dot(a.q.row(b, s, h), a.k.row(b, keys[i], h), D);
        top = std::max(top, score[i]);
      }
      for (std::size_t i = 0; attends && i < keys.size(); ++i) {
        sum += std::exp(score[i] - top);
      }
      for (int64_t c = 0; c < D; ++c) {
        double out = 0;
        for (std::size_t i = 0; attends && i < keys.size(); ++i) {
          out += std::exp(score[i] - top) / sum * to_double(a.v.row(b, keys[i], h)[c]);
        }
        store(out, &a.out.row(b, s, h)[c]);
      }
      using Lse = typename BlockAttentionArgs<Element>::Lse;
      a.lse[(b * H + h) * Nq * Tq + s] = static_cast<Lse>(top + std::log(sum));
    }
  }
}

template void block_attention(const BlockAttentionArgs<double>&);
template void block_attention(const BlockAttentionArgs<float>&);
template void block_attention(const BlockAttentionArgs<Bf16>&);

}  // namespace fastwan::kernels::ref
