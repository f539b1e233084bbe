#include "tests/gpu/reference.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>

namespace fastwan::gpu {
namespace {

double rounded(double x, Rounding rounding) {
  return rounding == Rounding::kNone ? x : static_cast<double>(to_float(round_to_bf16(x)));
}

// First token of each tile when tokens are counted tile by tile.
std::vector<int64_t> starts_of(const TileTokens& at) {
  std::vector<int64_t> starts{0};
  for (const auto& tile : at.tokens) {
    starts.push_back(starts.back() + static_cast<int64_t>(tile.size()));
  }
  return starts;
}

// The rows of one batch and head, tile by tile.
std::vector<double> plane_of(
    const Problem& p, const std::vector<Bf16>& x, const TileTokens& at, int64_t b, int64_t h) {
  std::vector<double> rows;
  const auto place = p.tokens(x.data(), at);
  for (const auto& tile : at.tokens) {
    for (const int64_t token : tile) {
      const Bf16* row = place.row(b, token, h);
      for (int64_t d = 0; d < p.c.D; ++d) {
        rows.push_back(to_float(row[d]));
      }
    }
  }
  return rows;
}

double dot(const double* a, const double* b, int64_t D) {
  double sum = 0;
  for (int64_t d = 0; d < D; ++d) {
    sum += a[d] * b[d];
  }
  return sum;
}

void add(double* to, double factor, const double* x, int64_t D) {
  for (int64_t d = 0; d < D; ++d) {
    to[d] += factor * x[d];
  }
}

struct Plane {
  const Problem& p;
  Rounding rounding;
  Wanted wanted;
  int64_t b, h;
  std::vector<int64_t> q_starts = starts_of(p.queries), k_starts = starts_of(p.keys);
  std::vector<double> q = plane_of(p, p.q, p.queries, b, h);
  std::vector<double> k = plane_of(p, p.k, p.keys, b, h);
  std::vector<double> v = plane_of(p, p.v, p.keys, b, h);
  std::vector<double> gate = wanted.gate ? plane_of(p, p.gate, p.queries, b, h) : q;
  std::vector<double> dout = wanted.gradients ? plane_of(p, p.dout, p.queries, b, h) : q;

  // Tokens of the key tiles that a query tile lists.
  std::vector<int64_t> listed(int64_t tile) const {
    const int64_t row = (b * p.c.H + h) * p.queries.num_tiles() + tile;
    std::vector<int64_t> tokens;
    for (int64_t i = 0; i < p.count[static_cast<std::size_t>(row)]; ++i) {
      const auto key = static_cast<std::size_t>(p.index[static_cast<std::size_t>(row * p.c.K + i)]);
      for (int64_t token = k_starts[key]; token < k_starts[key + 1]; ++token) {
        tokens.push_back(token);
      }
    }
    return tokens;
  }

  void query(int64_t token, int64_t tile, const std::vector<int64_t>& keys, Results& to) const {
    const int64_t D = p.c.D, Sq = q_starts.back(), Sk = k_starts.back();
    const double scale = p.forward_args(false).scale;
    const int64_t plane = b * p.c.H + h;
    const double* q_row = &q[static_cast<std::size_t>(token * D)];
    std::vector<double> s;
    double top = -std::numeric_limits<double>::infinity();
    for (const int64_t key : keys) {
      s.push_back(scale * dot(q_row, &k[static_cast<std::size_t>(key * D)], D));
      top = std::max(top, s.back());
    }
    double sum = 0;
    double* out = &to.out[static_cast<std::size_t>((plane * Sq + token) * D)];
    std::fill_n(out, D, 0.0);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const double e = std::exp(s[i] - top);
      sum += e;
      add(out, rounded(e, rounding), &v[static_cast<std::size_t>(keys[i] * D)], D);
    }
    for (int64_t d = 0; d < D; ++d) {
      out[d] = rounded(sum > 0 ? out[d] / sum : 0, rounding);
    }
    const double lse = sum > 0 ? top + std::log(sum) : -std::numeric_limits<double>::infinity();
    to.lse[static_cast<std::size_t>(plane * Sq + token)] = lse;
    if (wanted.gradients) {
      backward({token, plane, Sq, Sk, scale, lse}, keys, s, out, to);
    }
    if (wanted.gate) {
      const Bf16* mean =
          &p.coarse[static_cast<std::size_t>(((b * p.queries.num_tiles() + tile) * p.c.H + h) * D)];
      for (int64_t d = 0; d < D; ++d) {
        const double g = gate[static_cast<std::size_t>(token * D + d)];
        out[d] = rounded(rounded(to_float(mean[d]) * g, Rounding::kAsKernel) + out[d], rounding);
      }
    }
  }

  struct At {
    int64_t token, plane, Sq, Sk;
    double scale, lse;
  };

  void backward(const At& at,
                const std::vector<int64_t>& keys,
                const std::vector<double>& s,
                const double* out,
                Results& to) const {
    const int64_t D = p.c.D;
    const double* dout_row = &dout[static_cast<std::size_t>(at.token * D)];
    const double* q_row = &q[static_cast<std::size_t>(at.token * D)];
    const double delta = dot(out, dout_row, D);
    for (std::size_t i = 0; i < keys.size(); ++i) {
      const auto key = static_cast<std::size_t>(keys[i] * D);
      const double weight = std::exp(s[i] - at.lse);
      const double ds = weight * (dot(dout_row, &v[key], D) - delta);
      const auto key_at = static_cast<std::size_t>((at.plane * at.Sk + keys[i]) * D);
      add(&to.dv[key_at], rounded(weight, rounding), dout_row, D);
      add(&to.dk[key_at], at.scale * rounded(ds, rounding), q_row, D);
      add(&to.dq[static_cast<std::size_t>((at.plane * at.Sq + at.token) * D)],
          at.scale * rounded(ds, rounding), &k[key], D);
    }
  }

  void run(Results& to) const {
    for (int64_t tile = (b * p.c.H + h) % wanted.every; tile < p.queries.num_tiles();
         tile += wanted.every) {
      const std::vector<int64_t> keys = listed(tile);
      const auto n = static_cast<std::size_t>(tile);
      for (int64_t token = q_starts[n]; token < q_starts[n + 1]; ++token) {
        query(token, tile, keys, to);
      }
    }
  }
};

}  // namespace

Results reference(const Problem& p, Rounding rounding, const Wanted& wanted) {
  const int64_t planes = p.c.B * p.c.H;
  const int64_t Sq = starts_of(p.queries).back(), Sk = starts_of(p.keys).back();
  const auto sized = [&](int64_t S, double value) {
    return std::vector<double>(static_cast<std::size_t>(planes * S * p.c.D), value);
  };
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Results to{.out = sized(Sq, nan),
             .lse = std::vector<double>(static_cast<std::size_t>(planes * Sq), nan),
             .dq = sized(wanted.gradients ? Sq : 0, 0),
             .dk = sized(wanted.gradients ? Sk : 0, 0),
             .dv = sized(wanted.gradients ? Sk : 0, 0)};
  std::atomic<int64_t> next{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::max(1U, std::thread::hardware_concurrency()); ++i) {
    threads.emplace_back([&] {
      for (int64_t plane = next++; plane < planes; plane = next++) {
        Plane{
            .p = p, .rounding = rounding, .wanted = wanted, .b = plane / p.c.H, .h = plane % p.c.H}
            .run(to);
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  for (auto* gradient : {&to.dq, &to.dk, &to.dv}) {
    std::transform(gradient->begin(), gradient->end(), gradient->begin(),
                   [&](double x) { return rounded(x, rounding); });
  }
  return to;
}

std::vector<double> gather(const Problem& p, const std::vector<Bf16>& x, const TileTokens& at) {
  std::vector<double> all;
  for (int64_t b = 0; b < p.c.B; ++b) {
    for (int64_t h = 0; h < p.c.H; ++h) {
      const std::vector<double> plane = plane_of(p, x, at, b, h);
      all.insert(all.end(), plane.begin(), plane.end());
    }
  }
  return all;
}

std::vector<double> gather_lse(const Problem& p, const std::vector<float>& lse) {
  std::vector<double> all;
  const int64_t pitch = p.queries.num_tiles() * 64;
  for (int64_t plane = 0; plane < p.c.B * p.c.H; ++plane) {
    for (const auto& tile : p.queries.slots) {
      for (const int64_t slot : tile) {
        all.push_back(lse[static_cast<std::size_t>(plane * pitch + slot)]);
      }
    }
  }
  return all;
}

}  // namespace fastwan::gpu
