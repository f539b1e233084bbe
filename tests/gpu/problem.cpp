#include "tests/gpu/problem.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>
#include <random>
#include <thread>

namespace fastwan::gpu {
namespace {

constexpr int64_t kSide = 4;
constexpr int64_t kSlots = 64;

TileTokens raster_tokens(const kernels::TokenGrid& g) {
  TileTokens out;
  out.length = g.T * g.Y * g.X;
  for (int64_t t0 = 0; t0 < g.T; t0 += kSide) {
    for (int64_t y0 = 0; y0 < g.Y; y0 += kSide) {
      for (int64_t x0 = 0; x0 < g.X; x0 += kSide) {
        std::vector<int64_t> tokens, slots;
        for (int64_t t = t0; t < std::min(t0 + kSide, g.T); ++t) {
          for (int64_t y = y0; y < std::min(y0 + kSide, g.Y); ++y) {
            for (int64_t x = x0; x < std::min(x0 + kSide, g.X); ++x) {
              tokens.push_back((t * g.Y + y) * g.X + x);
              slots.push_back(out.num_tiles() * kSlots + (t - t0) * 16 + (y - y0) * 4 + (x - x0));
            }
          }
        }
        out.tokens.push_back(tokens);
        out.slots.push_back(slots);
      }
    }
  }
  return out;
}

TileTokens tiled_tokens(const std::vector<int32_t>& sizes) {
  TileTokens out;
  for (const int32_t size : sizes) {
    std::vector<int64_t> tokens(static_cast<std::size_t>(size));
    std::iota(tokens.begin(), tokens.end(), out.num_tiles() * kSlots);
    out.tokens.push_back(tokens);
    out.slots.push_back(tokens);
  }
  out.length = out.num_tiles() * kSlots;
  return out;
}

std::vector<int32_t> sizes_of(const TileTokens& at) {
  std::vector<int32_t> sizes;
  for (const auto& tile : at.tokens) {
    sizes.push_back(static_cast<int32_t>(tile.size()));
  }
  return sizes;
}

std::vector<Bf16> normal_numbers(int64_t size, uint64_t seed) {
  std::vector<Bf16> out(static_cast<std::size_t>(size));
  const std::size_t num_threads = std::max(1U, std::thread::hardware_concurrency());
  std::vector<std::thread> threads;
  for (std::size_t w = 0; w < num_threads; ++w) {
    threads.emplace_back([&, w] {
      std::minstd_rand rng(static_cast<unsigned>(seed * 1009 + w + 1));
      std::normal_distribution<float> normal;
      const std::size_t first = out.size() * w / num_threads;
      for (std::size_t i = first; i < out.size() * (w + 1) / num_threads; ++i) {
        out[i] = round_to_bf16(normal(rng));
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  return out;
}

// NaN wherever no token lies.
std::vector<Bf16> token_numbers(const Problem& p, const TileTokens& at, uint64_t seed) {
  std::vector<Bf16> x = normal_numbers(p.c.B * at.length * p.c.H * p.c.D, seed);
  if (p.order == Order::kRaster) {
    return x;
  }
  const auto place = p.tokens(x.data(), at);
  for (int64_t b = 0; b < p.c.B; ++b) {
    for (int64_t n = 0; n < at.num_tiles(); ++n) {
      const auto size = static_cast<int64_t>(at.tokens[static_cast<std::size_t>(n)].size());
      for (int64_t s = n * kSlots + size; s < (n + 1) * kSlots; ++s) {
        for (int64_t h = 0; h < p.c.H; ++h) {
          std::fill_n(place.row(b, s, h), p.c.D, Bf16{0x7FC1});
        }
      }
    }
  }
  return x;
}

void draw_lists(Problem& p, uint64_t seed) {
  std::mt19937_64 rng(seed);
  const auto K = static_cast<std::size_t>(p.c.K);
  const auto Nk = static_cast<std::size_t>(p.keys.num_tiles());
  const auto rows = static_cast<std::size_t>(p.c.B * p.c.H * p.queries.num_tiles());
  p.index.assign(rows * K, -7);  // never read behind the count
  p.count.assign(rows, static_cast<int32_t>(K));
  std::vector<int32_t> tiles(Nk);
  std::iota(tiles.begin(), tiles.end(), 0);
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t n = p.c.random_counts ? rng() % (K + 1) : K;
    p.count[row] = static_cast<int32_t>(n);
    for (std::size_t i = 0; i < n; ++i) {
      std::swap(tiles[i], tiles[i + rng() % (Nk - i)]);
    }
    const auto list = p.index.begin() + static_cast<std::ptrdiff_t>(row * K);
    std::copy_n(tiles.begin(), n, list);
    std::sort(list, list + static_cast<std::ptrdiff_t>(n));
  }
}

}  // namespace

float to_float(Bf16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

Bf16 round_to_bf16(double x) {
  return kernels::to_bf16(static_cast<float>(x));
}

const char* name_of(Order order) {
  return order == Order::kRaster ? "raster" : order == Order::kTiled ? "tiled" : "tiled-head-major";
}

kernels::FineArgs Problem::forward_args(bool with_gate) const {
  const kernels::TokenGrid none{0, 0, 0};
  return {.q = tokens<const Bf16>(d_q.data(), queries),
          .k = tokens<const Bf16>(d_k.data(), keys),
          .v = tokens<const Bf16>(d_v.data(), keys),
          .gate = tokens<const Bf16>(with_gate ? d_gate.data() : nullptr, queries),
          .coarse = with_gate ? d_coarse.data() : nullptr,
          .out = tokens(d_out.data(), queries),
          .lse = d_lse.data(),
          .list = {d_index.data(), d_count.data(), d_q_sizes.data(), d_kv_sizes.data()},
          .grid = order == Order::kRaster ? c.grid : none,
          .dims = {c.B, c.H, queries.num_tiles(), keys.num_tiles(), c.D, c.K},
          .scale = 1.0F / std::sqrt(static_cast<float>(c.D))};
}

kernels::FineBackwardArgs Problem::backward_args() const {
  const kernels::FineArgs f = forward_args(/*with_gate=*/false);
  return {.q = f.q,
          .k = f.k,
          .v = f.v,
          .out = tokens<const Bf16>(d_out.data(), queries),
          .dout = tokens<const Bf16>(d_dout.data(), queries),
          .lse = d_lse.data(),
          .dlse = nullptr,
          .dq = tokens(d_dq.data(), queries),
          .dk = tokens(d_dk.data(), keys),
          .dv = tokens(d_dv.data(), keys),
          .list = f.list,
          .grid = f.grid,
          .dims = f.dims,
          .scale = f.scale};
}

Problem make_problem(const Case& c, Order order, uint64_t seed) {
  TileTokens queries = order == Order::kRaster ? raster_tokens(c.grid) : TileTokens{};
  TileTokens keys = queries;
  if (order != Order::kRaster) {
    const auto from_grid = c.grid.T > 0 ? sizes_of(raster_tokens(c.grid)) : std::vector<int32_t>{};
    queries = tiled_tokens(c.grid.T > 0 ? from_grid : c.q_sizes);
    keys = tiled_tokens(c.grid.T > 0 ? from_grid : c.kv_sizes);
  }
  const auto of = [&](const TileTokens& at) {
    return static_cast<std::size_t>(c.B * at.length * c.H * c.D);
  };
  const auto rows = static_cast<std::size_t>(c.B * c.H * queries.num_tiles());
  const std::size_t nq = of(queries), nk = of(keys);
  const auto means = static_cast<std::size_t>(c.B * queries.num_tiles() * c.H * c.D);
  Problem p{.c = c,
            .order = order,
            .queries = queries,
            .keys = keys,
            .index = {},
            .count = {},
            .q = {},
            .k = {},
            .v = {},
            .gate = {},
            .dout = {},
            .coarse = {},
            .d_q = DeviceArray<Bf16>(nq),
            .d_k = DeviceArray<Bf16>(nk),
            .d_v = DeviceArray<Bf16>(nk),
            .d_gate = DeviceArray<Bf16>(nq),
            .d_dout = DeviceArray<Bf16>(nq),
            .d_coarse = DeviceArray<Bf16>(means),
            .d_out = DeviceArray<Bf16>(nq),
            .d_dq = DeviceArray<Bf16>(nq),
            .d_dk = DeviceArray<Bf16>(nk),
            .d_dv = DeviceArray<Bf16>(nk),
            .d_lse = DeviceArray<float>(rows * kSlots),
            .d_index = DeviceArray<int32_t>(rows * static_cast<std::size_t>(c.K)),
            .d_count = DeviceArray<int32_t>(rows),
            .d_q_sizes = DeviceArray<int32_t>(sizes_of(queries)),
            .d_kv_sizes = DeviceArray<int32_t>(sizes_of(keys))};
  p.q = token_numbers(p, p.queries, 5 * seed);
  p.k = token_numbers(p, p.keys, 5 * seed + 1);
  p.v = token_numbers(p, p.keys, 5 * seed + 2);
  p.gate = token_numbers(p, p.queries, 5 * seed + 3);
  p.dout = token_numbers(p, p.queries, 5 * seed + 4);
  p.coarse = normal_numbers(static_cast<int64_t>(means), 7 * seed);
  draw_lists(p, seed);
  p.d_q.upload(p.q);
  p.d_k.upload(p.k);
  p.d_v.upload(p.v);
  p.d_gate.upload(p.gate);
  p.d_dout.upload(p.dout);
  p.d_coarse.upload(p.coarse);
  p.d_index.upload(p.index);
  p.d_count.upload(p.count);
  return p;
}

}  // namespace fastwan::gpu
