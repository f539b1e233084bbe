#include "distributed/comm.h"

#include <stdexcept>

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "support/compare.h"

namespace fastwan::distributed {
namespace {

using testing::is_equal;

TEST(SelfComm, EveryCollectiveOfOneRankMovesItsOwnValues) {
  const Mesh mesh = one_process();
  Comm& comm = *mesh.shard;
  EXPECT_EQ(comm.size(), 1);
  EXPECT_EQ(comm.rank(), 0);
  const at::Tensor x = at::arange(7, at::kFloat);
  for (const auto collective : {&Comm::all_gather, &Comm::reduce_scatter_sum, &Comm::all_to_all}) {
    const at::Tensor to = at::zeros({7});
    (comm.*collective)(to, x);
    EXPECT_TRUE(is_equal(to, at::arange(7, at::kFloat)));
  }
  comm.all_reduce_sum(x);
  comm.broadcast(x, 0);
  comm.barrier();
  EXPECT_TRUE(is_equal(x, at::arange(7, at::kFloat)));
}

TEST(SelfComm, ARanksOwnSliceIsGatheredInPlace) {
  const Mesh mesh = one_process();
  const at::Tensor x = at::arange(5, at::kFloat);
  mesh.shard->all_gather(x, x);
  EXPECT_TRUE(is_equal(x, at::arange(5, at::kFloat)));
}

TEST(SelfComm, RefusesWhatManyRanksWouldRefuse) {
  const Mesh mesh = one_process();
  Comm& comm = *mesh.shard;
  const at::Tensor x = at::zeros({6});
  EXPECT_THROW(comm.all_gather(at::zeros({5}), x), std::logic_error);
  EXPECT_THROW(comm.all_gather(at::zeros({6}, at::kDouble), x), std::logic_error);
  EXPECT_THROW(comm.reduce_scatter_sum(at::zeros({7}), x), std::logic_error);
  EXPECT_THROW(comm.all_reduce_sum(at::zeros({2, 3}).t()), std::logic_error);
  EXPECT_THROW(comm.broadcast(x, 1), std::logic_error);
}

}  // namespace
}  // namespace fastwan::distributed
