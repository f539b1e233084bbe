#include <cmath>
#include <vector>

#include "kernels/block_attention/block_attention_backward.h"

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

void add(double factor, const auto* row, double* to, int64_t D) {
  for (int64_t c = 0; c < D; ++c) {
    to[c] += factor * to_double(row[c]);
  }
}

// Sums in double for every element, as the gradients lie in memory: [B, S, H, D].
struct Sums {
  int64_t S, H, D;
  std::vector<double> values;

  Sums(int64_t B, int64_t tokens, int64_t heads, int64_t channels)
      : S(tokens),
        H(heads),
        D(channels),
        values(static_cast<std::size_t>(B * tokens * heads * channels), 0.0) {}
  double* row(int64_t b, int64_t s, int64_t h) { return &values[0] + ((b * S + s) * H + h) * D; }
};

template <class Element>
void store_all(Sums& sums, int64_t B, const Tokens<Element>& to) {
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t s = 0; s < sums.S; ++s) {
      for (int64_t h = 0; h < sums.H; ++h) {
        for (int64_t c = 0; c < sums.D; ++c) {
          store(sums.row(b, s, h)[c], &to.row(b, s, h)[c]);
        }
      }
    }
  }
}

}  // namespace

template <class Element>
void block_attention_backward(const BlockAttentionBackwardArgs<Element>& a) {
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  Sums dq(B, Nq * Tq, H, D), dk(B, Nk * Tk, H, D), dv(B, Nk * Tk, H, D);
  for (int64_t bhn = 0; bhn < B * H * Nq; ++bhn) {
    const int64_t b = bhn / (H * Nq), h = bhn / Nq % H, n = bhn % Nq;
    for (int64_t t = 0; t < a.list.q_sizes[n]; ++t) {
      const int64_t r = n * Tq + t, at = (b * H + h) * Nq * Tq + r;
      const double delta = dot(a.out.row(b, r, h), a.grad_out.row(b, r, h), D) -
                           (a.grad_lse ? to_double(a.grad_lse[at]) : 0.0);
      for (int32_t i = 0; i < a.list.count[bhn]; ++i) {
        const int64_t tile = a.list.index[bhn * K + i];
        for (int64_t c = tile * Tk; c < tile * Tk + a.list.kv_sizes[tile]; ++c) {
          const double score = a.scale * dot(a.q.row(b, r, h), a.k.row(b, c, h), D);
          const double p = std::exp(score - to_double(a.lse[at]));
          const double ds = p * (dot(a.grad_out.row(b, r, h), a.v.row(b, c, h), D) - delta);
          add(a.scale * ds, a.k.row(b, c, h), dq.row(b, r, h), D);
          add(a.scale * ds, a.q.row(b, r, h), dk.row(b, c, h), D);
          add(p, a.grad_out.row(b, r, h), dv.row(b, c, h), D);
        }
      }
    }
  }
  store_all(dq, B, a.grad_q);
  store_all(dk, B, a.grad_k);
  store_all(dv, B, a.grad_v);
}

template void block_attention_backward(const BlockAttentionBackwardArgs<double>&);
template void block_attention_backward(const BlockAttentionBackwardArgs<float>&);
template void block_attention_backward(const BlockAttentionBackwardArgs<Bf16>&);

}  // namespace fastwan::kernels::ref
