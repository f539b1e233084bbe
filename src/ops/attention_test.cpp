// dense_attention: torch's own attention, or block_attention over all tiles.
#include "ops/attention.h"

#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randn_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <gtest/gtest.h>

#include "support/compare.h"

namespace fastwan::ops {
namespace {

at::Tensor torchs(const std::vector<at::Tensor>& x) {
  return at::scaled_dot_product_attention(x[0].transpose(1, 2), x[1].transpose(1, 2),
                                          x[2].transpose(1, 2))
      .transpose(1, 2);
}

struct Sizes {
  int64_t queries, keys, head;
};

// Whole tiles, one short tile, cross attention, and what tiles do not cut: 65 tokens, heads of 128.
TEST(DenseAttention, IsNoWorseThanTorchsWithGradients) {
  for (const Sizes& s : {Sizes{192, 192, 64}, Sizes{24, 24, 16}, Sizes{128, 32, 64}, Sizes{1, 3, 8},
                         Sizes{65, 128, 64}, Sizes{128, 128, 128}}) {
    const std::vector<at::Tensor> values = {at::randn({2, s.queries, 3, s.head}),
                                            at::randn({2, s.keys, 3, s.head}),
                                            at::randn({2, s.keys, 3, s.head})};
    const at::Tensor grad_out = at::randn_like(values[0]);
    const auto leaves = [&](at::ScalarType type) {
      std::vector<at::Tensor> all;
      for (const at::Tensor& x : values) {
        all.push_back(x.to(type, /*non_blocking=*/false, /*copy=*/true).set_requires_grad(true));
      }
      return all;
    };
    const auto ours = leaves(at::kFloat), plain = leaves(at::kFloat), exact = leaves(at::kDouble);
    const at::Tensor got = dense_attention(ours[0], ours[1], ours[2]);
    const at::Tensor of_plain = torchs(plain), of_exact = torchs(exact);
    EXPECT_TRUE(testing::no_worse_than_plain(got, of_plain, of_exact)) << s.queries << s.keys;
    got.backward(grad_out);
    of_plain.backward(grad_out);
    of_exact.backward(grad_out.to(at::kDouble));
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_TRUE(testing::no_worse_than_plain(ours[i].grad(), plain[i].grad(), exact[i].grad()))
          << s.queries << " " << s.keys << " " << i;
    }
    const at::NoGradGuard no_grad;
    EXPECT_TRUE(testing::is_equal(dense_attention(values[0], values[1], values[2]), got))
        << "with and without gradients the same bits";
  }
}

}  // namespace
}  // namespace fastwan::ops
