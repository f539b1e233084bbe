#include "ops/block_attention_plain.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include "ops/checks.h"
#include "ops/element.h"

namespace fastwan::ops {
namespace {

constexpr const char* kOp = "block_attention";
constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();
// Scores held at once: bounds the memory of a step, 256 MB in float32.
constexpr int64_t kScoresAtOnce = int64_t{1} << 26;

// [N, T] bool: the slot holds a token.
at::Tensor valid_slots(const at::Tensor& sizes, int64_t T) {
  return at::arange(T, sizes.options()).lt(sizes.unsqueeze(1));
}

// x [B, N*T, H, D] -> [B, H, N*T, D] in the type of sums, zero where there is no token.
at::Tensor heads_first(const at::Tensor& x, const at::Tensor& sizes) {
  const int64_t T = sizes.size(0) == 0 ? 1 : x.size(1) / sizes.size(0);
  const at::Tensor padding = valid_slots(sizes, T).logical_not().view({-1, 1});
  return x.transpose(1, 2).to(sum_type(x)).masked_fill(padding, 0);
}

// [B, H, Nq, Nk] bool: query tile n attends to key tile m.
at::Tensor tile_mask(const BlockLists& lists) {
  const int64_t B = lists.index.size(0), H = lists.index.size(1), Nq = lists.index.size(2);
  const int64_t K = lists.index.size(3), Nk = lists.kv_sizes.size(0);
  const at::Tensor listed =
      at::arange(K, lists.count.options()).lt(lists.count.unsqueeze(-1));  // [B, H, Nq, K]
  // entries behind the count go to a column of their own, which is cut off
  const at::Tensor column = at::where(listed, lists.index, Nk).to(at::kLong);
  return at::zeros({B, H, Nq, Nk + 1}, lists.index.options().dtype(at::kBool))
      .scatter_(3, column, true)
      .narrow(3, 0, Nk);
}

// A run of query tiles against all keys.
struct Rows {
  int64_t first_tile, num_tiles;
  int64_t first_row, num_rows;
};

class Masked {
 public:
  Masked(const AttentionOperands& x, const BlockLists& lists, double scale)
      : scale_(scale),
        Tq_(x.q.size(1) / std::max<int64_t>(1, lists.q_sizes.size(0))),
        Tk_(x.k.size(1) / std::max<int64_t>(1, lists.kv_sizes.size(0))),
        tiles_(tile_mask(lists)),
        q_valid_(valid_slots(lists.q_sizes, Tq_)),
        k_valid_(valid_slots(lists.kv_sizes, Tk_)),
        q(heads_first(x.q, lists.q_sizes)),
        k(heads_first(x.k, lists.kv_sizes)),
        v(heads_first(x.v, lists.kv_sizes)) {}

  // Scores of a run of rows [B, H, rows, Nk*Tk]; -inf where nothing is attended to.
  at::Tensor scores(const Rows& rows) const {
    const at::Tensor attended =
        tiles_.narrow(2, rows.first_tile, rows.num_tiles).unsqueeze(3).unsqueeze(5) &
        q_valid_.narrow(0, rows.first_tile, rows.num_tiles).view({-1, Tq_, 1, 1}) &
        k_valid_;  // [B, H, n, Tq, Nk, Tk]
    return (at::matmul(q.narrow(2, rows.first_row, rows.num_rows), k.transpose(2, 3)) * scale_)
        .masked_fill(attended.flatten(4, 5).flatten(2, 3).logical_not(), kMinusInfinity);
  }

  template <class Body>
  void for_each_run(const Body& body) const {
    const int64_t num_tiles = q_valid_.size(0);
    const int64_t scores_of_tile = std::max<int64_t>(1, q.size(0) * q.size(1) * Tq_ * k.size(2));
    const int64_t step = std::max<int64_t>(1, kScoresAtOnce / scores_of_tile);
    for (int64_t first = 0; first < num_tiles; first += step) {
      const int64_t n = std::min(step, num_tiles - first);
      body(
          Rows{.first_tile = first, .num_tiles = n, .first_row = first * Tq_, .num_rows = n * Tq_});
    }
  }

 private:
  double scale_;
  int64_t Tq_, Tk_;
  at::Tensor tiles_;    // [B, H, Nq, Nk]
  at::Tensor q_valid_;  // [Nq, Tq]
  at::Tensor k_valid_;  // [Nk, Tk]

 public:
  at::Tensor q;  // [B, H, Nq*Tq, D]
  at::Tensor k;  // [B, H, Nk*Tk, D]
  at::Tensor v;  // [B, H, Nk*Tk, D]
};

// exp(scores - lse), 0 in rows that attend to nothing.
at::Tensor probabilities(const at::Tensor& scores, const at::Tensor& lse) {
  return (scores - lse.masked_fill(lse == kMinusInfinity, 0).unsqueeze(-1)).exp();
}

void check_tiled(const Named& x, const Named& sizes) {
  const c10::SymInt slots = x.tensor.sym_size(1), tiles = sizes.tensor.sym_size(0);
  TORCH_CHECK_VALUE(tiles == 0 ? slots == 0 : slots % tiles == 0, kOp, ": ", x.name,
                    " must hold the same number of slots for each of the ", tiles, " tiles of ",
                    sizes.name, ", got ", slots, " slots");
}

}  // namespace

double scale_or_default(std::optional<double> scale, const at::Tensor& q) {
  return scale.value_or(1.0 / std::sqrt(static_cast<double>(q.size(3))));
}

void check_block_attention(const AttentionOperands& x, const BlockLists& lists) {
  check_floating(kOp, {"q", x.q});
  check_rank(kOp, {"q", x.q}, 4, "B Nq*Tq H D");
  check_rank(kOp, {"k", x.k}, 4, "B Nk*Tk H D");
  check_rank(kOp, {"block_index", lists.index}, 4, "B H Nq K");
  check_rank(kOp, {"q_sizes", lists.q_sizes}, 1, "Nq");
  check_rank(kOp, {"kv_sizes", lists.kv_sizes}, 1, "Nk");
  const c10::SymInt B = x.q.sym_size(0), H = x.q.sym_size(2), D = x.q.sym_size(3);
  const c10::SymInt Sk = x.k.sym_size(1), Nq = lists.q_sizes.sym_size(0);
  check_shape(kOp, {"k", x.k}, {{"B", B}, {"Nk*Tk", Sk}, {"H", H}, {"D", D}});
  check_shape(kOp, {"v", x.v}, {{"B", B}, {"Nk*Tk", Sk}, {"H", H}, {"D", D}});
  check_shape(kOp, {"block_index", lists.index},
              {{"B", B}, {"H", H}, {"Nq", Nq}, {"K", lists.index.sym_size(3)}});
  check_shape(kOp, {"block_count", lists.count}, {{"B", B}, {"H", H}, {"Nq", Nq}});
  check_tiled({"q", x.q}, {"q_sizes", lists.q_sizes});
  check_tiled({"k", x.k}, {"kv_sizes", lists.kv_sizes});
  check_alike(kOp, {"q", x.q}, {{"k", x.k}, {"v", x.v}});
  for (const Named& list : {Named{"block_index", lists.index}, Named{"block_count", lists.count},
                            Named{"q_sizes", lists.q_sizes}, Named{"kv_sizes", lists.kv_sizes}}) {
    check_int32(kOp, list);
    check_device(kOp, {"q", x.q}, {list});
  }
}

void check_block_attention_backward(const at::Tensor& grad_out,
                                    const at::Tensor& grad_lse,
                                    const AttentionOperands& x,
                                    const AttentionResult& result,
                                    const BlockLists& lists) {
  check_block_attention(x, lists);
  const c10::SymInt B = x.q.sym_size(0), S = x.q.sym_size(1);
  const c10::SymInt H = x.q.sym_size(2), D = x.q.sym_size(3);
  for (const Named& like_q : {Named{"grad_out", grad_out}, Named{"out", result.out}}) {
    check_shape(kOp, like_q, {{"B", B}, {"Nq*Tq", S}, {"H", H}, {"D", D}});
    check_alike(kOp, {"q", x.q}, {like_q});
  }
  check_shape(kOp, {"lse", result.lse}, {{"B", B}, {"H", H}, {"Nq*Tq", S}});
  TORCH_CHECK_VALUE(result.lse.scalar_type() == sum_type(x.q), kOp, ": lse must be ", sum_type(x.q),
                    ", got ", result.lse.dtype());
  if (grad_lse.defined()) {
    check_shape(kOp, {"grad_lse", grad_lse}, {{"B", B}, {"H", H}, {"Nq*Tq", S}});
    check_alike(kOp, {"lse", result.lse}, {{"grad_lse", grad_lse}});
  }
}

std::tuple<at::Tensor, at::Tensor> plain_block_attention(const AttentionOperands& x,
                                                         const BlockLists& lists,
                                                         double scale) {
  check_block_attention(x, lists);
  const Masked masked(x, lists, scale);
  at::Tensor out = at::empty(x.q.sizes(), x.q.options());  // [B, Nq*Tq, H, D]
  at::Tensor lse = at::empty({x.q.size(0), x.q.size(2), x.q.size(1)}, masked.q.options());
  masked.for_each_run([&](const Rows& rows) {
    const at::Tensor scores = masked.scores(rows);           // [B, H, rows, Nk*Tk]
    const at::Tensor run_lse = at::logsumexp(scores, {-1});  // [B, H, rows]
    const at::Tensor run_out =
        at::matmul(probabilities(scores, run_lse), masked.v);  // [B, H, rows, D]
    lse.narrow(2, rows.first_row, rows.num_rows).copy_(run_lse);
    out.narrow(1, rows.first_row, rows.num_rows).copy_(run_out.transpose(1, 2));
  });
  return {out, lse};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> plain_block_attention_backward(
    const at::Tensor& grad_out,
    const at::Tensor& grad_lse,
    const AttentionOperands& x,
    const AttentionResult& result,
    const BlockLists& lists,
    double scale) {
  check_block_attention_backward(grad_out, grad_lse, x, result, lists);
  const Masked masked(x, lists, scale);
  const at::Tensor d_out = heads_first(grad_out, lists.q_sizes);    // [B, H, Nq*Tq, D]
  at::Tensor delta = (d_out * result.out.transpose(1, 2)).sum(-1);  // [B, H, Nq*Tq]
  if (grad_lse.defined()) {
    delta = delta - grad_lse;
  }
  at::Tensor dq = at::zeros(masked.q.sizes(), masked.q.options());
  at::Tensor dk = at::zeros(masked.k.sizes(), masked.k.options());
  at::Tensor dv = at::zeros(masked.v.sizes(), masked.v.options());
  masked.for_each_run([&](const Rows& rows) {
    const auto run = [&](const at::Tensor& of_rows) {
      return of_rows.narrow(2, rows.first_row, rows.num_rows);
    };
    const at::Tensor p = probabilities(masked.scores(rows), run(result.lse));  // [B, H, rows, S]
    const at::Tensor dp = at::matmul(run(d_out), masked.v.transpose(2, 3));
    const at::Tensor ds = p * (dp - run(delta).unsqueeze(-1)) * scale;
    dv += at::matmul(p.transpose(2, 3), run(d_out));
    dk += at::matmul(ds.transpose(2, 3), run(masked.q));
    run(dq).copy_(at::matmul(ds, masked.k));
  });
  const auto as_given = [&](const at::Tensor& grad) {
    return grad.transpose(1, 2).to(x.q.scalar_type()).contiguous();  // [B, S, H, D]
  };
  return {as_given(dq), as_given(dk), as_given(dv)};
}

}  // namespace fastwan::ops
