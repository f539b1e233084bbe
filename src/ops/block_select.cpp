#include "ops/block_select.h"

#include <tuple>

#include <ATen/ops/sort.h>

#include "ops/checks.h"
#include "ops/registry.h"

namespace fastwan::ops {

void check_block_select(const at::Tensor& scores, int64_t topk) {
  check_floating("block_select", {"scores", scores});
  check_rank("block_select", {"scores", scores}, 4, "B H Nq Nk");
  TORCH_CHECK_VALUE(topk >= 1 && topk <= scores.sym_size(3),
                    "block_select: topk must lie between 1 and the number of key tiles, ",
                    scores.sym_size(3), ", got ", topk);
}

at::Tensor plain_block_select(const at::Tensor& scores, int64_t topk) {
  check_block_select(scores, topk);
  const at::Tensor order =
      std::get<1>(at::sort(scores, /*stable=*/true, /*dim=*/-1, /*descending=*/true));
  return std::get<0>(order.narrow(-1, 0, topk).sort(-1)).to(at::kInt);  // [B, H, Nq, K]
}

at::Tensor block_select(const at::Tensor& scores, int64_t topk) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("fastwan::block_select", "")
                             .typed<decltype(block_select)>();
  return op.call(scores, topk);
}

void register_block_select_plain(torch::Library& m) {
  m.impl("block_select", plain_block_select);
}

}  // namespace fastwan::ops
