// For tests: a random block attention problem in any element type, NaN in its padding.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/block_attention/block_attention.h"

namespace fastwan::kernels::testing {

struct BlockAttentionCase {
  int64_t B, H, D, Tq, Tk, K;
  std::vector<int32_t> q_sizes, kv_sizes;
};

// What every test of block_attention goes through: partial tiles of many sizes, both head sizes of
// the models, then other sparse patterns with other tiles and odd head sizes.
inline const std::vector<BlockAttentionCase>& block_attention_cases() {
  static const std::vector<BlockAttentionCase> all{
      {.B = 2,
       .H = 3,
       .D = 64,
       .Tq = 64,
       .Tk = 64,
       .K = 3,
       .q_sizes = {64, 63, 1, 17},
       .kv_sizes = {64, 1, 63, 32, 8}},
      {.B = 1,
       .H = 2,
       .D = 128,
       .Tq = 64,
       .Tk = 64,
       .K = 4,
       .q_sizes = {64, 8, 2, 16, 64},
       .kv_sizes = {64, 64, 16, 64}},
      {.B = 1,
       .H = 1,
       .D = 20,
       .Tq = 7,
       .Tk = 33,
       .K = 2,
       .q_sizes = {7, 3, 1, 6},
       .kv_sizes = {33, 5}},
      {.B = 1,
       .H = 2,
       .D = 1,
       .Tq = 1,
       .Tk = 1,
       .K = 3,
       .q_sizes = {1, 1, 1, 1, 1},
       .kv_sizes = {1, 1, 1}},
      {.B = 1,
       .H = 1,
       .D = 256,
       .Tq = 100,
       .Tk = 130,
       .K = 2,
       .q_sizes = {100, 99},
       .kv_sizes = {130, 129}},
  };
  return all;
}

template <class Element>
class BlockAttentionProblem {
 public:
  explicit BlockAttentionProblem(const BlockAttentionCase& c)
      : dims{.B = c.B,
             .H = c.H,
             .Nq = static_cast<int64_t>(c.q_sizes.size()),
             .Nk = static_cast<int64_t>(c.kv_sizes.size()),
             .Tq = c.Tq,
             .Tk = c.Tk,
             .D = c.D,
             .K = c.K},
        q(random_tokens(c.q_sizes, c.Tq)),
        k(random_tokens(c.kv_sizes, c.Tk)),
        v(random_tokens(c.kv_sizes, c.Tk)),
        q_sizes(c.q_sizes),
        kv_sizes(c.kv_sizes) {
    make_lists();
  }

  // The same values in another type; exact when Element is no wider.
  template <class Other>
  BlockAttentionProblem<Other> as() const {
    BlockAttentionProblem<Other> other;
    other.dims = dims;
    other.q = converted<Other>(q), other.k = converted<Other>(k), other.v = converted<Other>(v);
    other.index = index, other.count = count;
    other.q_sizes = q_sizes, other.kv_sizes = kv_sizes;
    return other;
  }

  using Lse = typename BlockAttentionArgs<Element>::Lse;
  struct Result {
    std::vector<Element> out;
    std::vector<Lse> lse;
  };
  Result empty_result() const {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    Result r{.out = std::vector<Element>(q.size()),
             .lse = std::vector<Lse>(static_cast<std::size_t>(dims.B * dims.H * dims.Nq * dims.Tq),
                                     static_cast<Lse>(nan))};
    for (Element& x : r.out) {
      store(nan, &x);
    }
    return r;
  }
  BlockAttentionArgs<Element> args(Result& r) const {
    return {.q = tokens(q.data(), dims.Nq * dims.Tq),
            .k = tokens(k.data(), dims.Nk * dims.Tk),
            .v = tokens(v.data(), dims.Nk * dims.Tk),
            .out = tokens(r.out.data(), dims.Nq * dims.Tq),
            .lse = r.lse.data(),
            .list = {.index = index.data(),
                     .count = count.data(),
                     .q_sizes = q_sizes.data(),
                     .kv_sizes = kv_sizes.data()},
            .scale = 1 / std::sqrt(static_cast<double>(dims.D)),
            .dims = dims};
  }

  BlockAttentionDims dims{};

 private:
  std::mt19937_64 random_{20240607};  // before the members that it fills

 public:
  std::vector<Element> q, k, v;
  std::vector<int32_t> index, count, q_sizes, kv_sizes;

 private:
  template <class>
  friend class BlockAttentionProblem;
  BlockAttentionProblem() = default;

  template <class Other>
  static std::vector<Other> converted(const std::vector<Element>& from) {
    std::vector<Other> to(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) {
      store(to_double(from[i]), &to[i]);
    }
    return to;
  }

  template <class Pointee>
  Tokens<Pointee> tokens(Pointee* data, int64_t S) const {
    return {.data = data, .batch = S * dims.H * dims.D, .token = dims.H * dims.D, .head = dims.D};
  }

  std::vector<Element> random_tokens(const std::vector<int32_t>& sizes, int64_t T) {
    std::normal_distribution<double> normal;
    std::vector<Element> x;
    for (int64_t i = 0; i < dims.B * static_cast<int64_t>(sizes.size()) * T; ++i) {
      const bool padding = i % T >= sizes[static_cast<std::size_t>(i / T) % sizes.size()];
      for (int64_t c = 0; c < dims.H * dims.D; ++c) {
        Element value{};
        store(padding ? std::numeric_limits<double>::quiet_NaN() : normal(random_), &value);
        x.push_back(value);
      }
    }
    return x;
  }

  // Lists of every length from 0 to K in turn, in random order; entries behind the count point
  // nowhere.
  void make_lists() {
    std::vector<int32_t> tiles(static_cast<std::size_t>(dims.Nk));
    std::iota(tiles.begin(), tiles.end(), 0);
    for (int64_t i = 0; i < dims.B * dims.H * dims.Nq; ++i) {
      std::shuffle(tiles.begin(), tiles.end(), random_);
      count.push_back(static_cast<int32_t>(i % (dims.K + 1)));
      for (int64_t j = 0; j < dims.K; ++j) {
        index.push_back(j < count.back() ? tiles[static_cast<std::size_t>(j)] : 1 << 30);
      }
    }
  }
};

}  // namespace fastwan::kernels::testing
