#include "models/layout/training_cost.h"

#include <numeric>

#include <gtest/gtest.h>

#include "models/layout/tensors.h"

namespace fastwan::layout {
namespace {

constexpr double kTera = 1e12;
constexpr double kGiga = 1e9;

WanDitConfig dit(int64_t heads, int64_t layers, int64_t ffn, int64_t channels, bool is_gated) {
  return {.num_heads = heads,
          .head_dim = 128,
          .num_layers = layers,
          .ffn_dim = ffn,
          .in_channels = channels,
          .out_channels = channels,
          .text_dim = 4096,
          .freq_dim = 256,
          .is_gated = is_gated};
}
WanDitConfig wan_1_3b(bool is_gated) {
  return dit(12, 30, 8960, 16, is_gated);
}
WanDitConfig wan_14b(bool is_gated) {
  return dit(40, 40, 13824, 16, is_gated);
}
WanDitConfig wan_5b(bool is_gated) {
  return dit(24, 30, 14336, 48, is_gated);
}

int64_t sum(const std::vector<int64_t>& units) {
  return std::accumulate(units.begin(), units.end(), int64_t{0});
}

TEST(TrainingCost, UnitsHoldEveryParameterOnce) {
  for (const bool is_gated : {false, true}) {
    const WanDitConfig config = wan_1_3b(is_gated);
    const std::vector<int64_t> units = unit_parameters(config);
    ASSERT_EQ(units.size(), 32U);
    EXPECT_EQ(sum(units), num_parameters(tensors_of(config)));
    EXPECT_EQ(units[1], units[30]);
    // Head: 1536 -> 64 with bias, and its modulation [1, 2, 1536].
    EXPECT_EQ(units[31], 1536 * 64 + 64 + 2 * 1536);
  }
}

TEST(TrainingCost, ParametersOfThePublishedModels) {
  EXPECT_NEAR(static_cast<double>(sum(unit_parameters(wan_1_3b(false)))), 1.419e9, 0.001e9);
  EXPECT_NEAR(static_cast<double>(sum(unit_parameters(wan_1_3b(true)))), 1.490e9, 0.001e9);
  EXPECT_NEAR(static_cast<double>(sum(unit_parameters(wan_14b(false)))), 14.288e9, 0.001e9);
  EXPECT_NEAR(static_cast<double>(sum(unit_parameters(wan_14b(true)))), 15.337e9, 0.001e9);
  EXPECT_NEAR(static_cast<double>(sum(unit_parameters(wan_5b(false)))), 5.000e9, 0.001e9);
  EXPECT_NEAR(static_cast<double>(sum(unit_parameters(wan_5b(true)))), 5.283e9, 0.001e9);
}

// Trained student, trained critic, frozen teacher.
double three_roles(const WanDitConfig& student,
                   const WanDitConfig& score,
                   const StateLayout& trained,
                   const StateLayout& frozen) {
  const auto held = [](const WanDitConfig& config, const StateLayout& layout, bool trains) {
    const std::vector<int64_t> units = unit_parameters(config);
    return state_bytes(units, trains ? sum(units) : 0, false, layout).held();
  };
  return held(student, trained, true) + held(score, trained, true) + held(score, frozen, false);
}

// The published table counts bytes a parameter; gates in all three networks, or in none. Its upper
// and lower ends are reached.
TEST(TrainingCost, StateOfThreeRoles) {
  struct Row {
    WanDitConfig plain, gated;
    double modular_low, modular_high, lean;
  };
  const Row rows[] = {{wan_1_3b(false), wan_1_3b(true), 51, 54, 48.2},
                      {wan_5b(false), wan_5b(true), 180, 190, 170.0},
                      {wan_14b(false), wan_14b(true), 514, 552, 485.8}};
  for (const Row& row : rows) {
    const StateLayout fp32{.compute_bytes = 4};
    EXPECT_NEAR(three_roles(row.plain, row.plain, fp32, fp32) / kGiga, row.modular_low, 0.6)
        << "36 bytes: two gradient sets, fp32 teacher";
    EXPECT_NEAR(three_roles(row.gated, row.gated, fp32, fp32) / kGiga, row.modular_high, 0.6);
    const StateLayout ours{};
    // 34 bytes: both gradient sets, bf16 teacher.
    EXPECT_NEAR(three_roles(row.plain, row.plain, ours, ours) / kGiga, row.lean, 0.1);
  }
}

TEST(TrainingCost, ShardsRoundUpUnitByUnit) {
  const StateLayout two{.shard = 2};
  const StateBytes bytes = state_bytes({5, 8, 3}, 16, false, two);
  EXPECT_EQ(bytes.masters, (3 + 4 + 2) * 4);
  EXPECT_EQ(bytes.gradients, (3 + 4 + 2) * 4);
  EXPECT_EQ(bytes.frozen, 0);
  EXPECT_EQ(bytes.gathered, 8 * 2) << "the widest unit in the compute type";
  EXPECT_EQ(state_bytes({5, 8, 3}, 16, true, two).gathered, 16 * 2) << "all until backward";
  const StateLayout last{.shard = 2, .reduces_once = true};
  EXPECT_EQ(state_bytes({5, 8, 3}, 16, false, last).gradients, 16 * 4);
}

TEST(TrainingCost, AFirstBetaOfZeroAndShortMomentsAreHeldInFewerBytes) {
  const StateLayout layout{.first_moment_bytes = 0, .second_moment_bytes = 2, .average_bytes = 4};
  const StateBytes bytes = state_bytes({100}, 100, false, layout);
  EXPECT_EQ(bytes.first_moment, 0);
  EXPECT_EQ(bytes.second_moment, 200);
  EXPECT_EQ(bytes.average, 400);
  EXPECT_EQ(bytes.held(), 400 + 200 + 400 + 400);
}

TEST(TrainingCost, AWholeNetworkInTheComputeTypeIsUsedInPlace) {
  EXPECT_EQ(state_bytes({100}, 100, false, {.compute_bytes = 4}).gathered, 0);
  EXPECT_EQ(state_bytes({100}, 100, false, {.compute_bytes = 2}).gathered, 200);
  EXPECT_EQ(state_bytes({100}, 0, false, {.compute_bytes = 2}).gathered, 0) << "frozen";
  EXPECT_EQ(state_bytes({100}, 0, false, {.shard = 2, .compute_bytes = 2}).gathered, 200);
}

TEST(TrainingCost, AdaptersTrainAFewParametersBesideAFrozenBase) {
  const WanDitConfig config = wan_1_3b(false);
  const int64_t adapters = lora_parameters(config, 32);
  EXPECT_EQ(adapters, 30 * 8 * 32 * 2 * 1536);
  EXPECT_EQ(lora_parameters(wan_1_3b(true), 32), adapters + 30 * (1536 * 1536 + 1536))
      << "gates start at zero in most models: they train whole, without an adapter";
  EXPECT_EQ(lora_parameters(config, 32, {"attn2.to_v", "ffn"}),
            30 * 32 * (2 * 1536 + 2 * (1536 + 8960)));
  const std::vector<int64_t> units = unit_parameters(config);
  const StateBytes bytes = state_bytes(units, adapters, false, {});
  EXPECT_EQ(bytes.frozen, 2.0 * static_cast<double>(sum(units)));
  EXPECT_EQ(bytes.masters, 4.0 * static_cast<double>(adapters));
}

struct Iteration {
  const char* what;
  WanDitConfig student, score;
  TokenGrid grid;
  int64_t topk;  // 0: dense student
  double earlier_forwards;
  double critic, generator, mean;  // tera-operations a video
};

// Counted apart from this code, from the same products; its data-free row runs all earlier
// forwards.
TEST(TrainingCost, AnIterationOfThePublishedDistillations) {
  const Iteration iterations[] = {
      {"1.3B, 61 frames", wan_1_3b(true), wan_1_3b(false), {16, 28, 52}, 73, 0, 778, 829, 943},
      {"1.3B, 77 frames", wan_1_3b(true), wan_1_3b(false), {20, 28, 52}, 91, 0, 1119, 1158, 1350},
      {"1.3B, 81 frames", wan_1_3b(true), wan_1_3b(false), {21, 30, 52}, 125, 0, 1381, 1475, 1676},
      {"14B, 61 frames", wan_14b(true), wan_14b(false), {16, 28, 52}, 37, 0, 4944, 5720, 6088},
      {"14B, 81 frames", wan_14b(true), wan_14b(false), {21, 30, 52}, 63, 0, 8160, 9108, 9981},
      {"5B, dense", wan_5b(false), wan_5b(false), {31, 22, 40}, 0, 2, 3758, 4792, 4717}};
  for (const Iteration& it : iterations) {
    const RecomputedBlocks full{};
    const AttentionMode sparse{.topk = it.topk, .uses_gates = it.topk > 0};
    const PassWork student = training_pass(it.student, it.grid, sparse, 512, full, true);
    const PassWork score = training_pass(it.score, it.grid, {}, 512, full, true);
    const DistillWork work =
        distill_work(student, score, score, {.earlier_forwards = it.earlier_forwards});
    EXPECT_NEAR(work.critic / kTera, it.critic, it.critic * 2e-3) << it.what;
    EXPECT_NEAR(work.student / kTera, it.generator, it.generator * 2e-3) << it.what;
    EXPECT_NEAR(work.mean / kTera, it.mean, it.mean * 2e-3) << it.what;
    const DistillWork regressing = distill_work(
        student, score, score, {.earlier_forwards = it.earlier_forwards, .regresses = true});
    EXPECT_EQ(regressing.critic, work.critic) << it.what;
    EXPECT_NEAR(regressing.student - work.student, student.total(), 1e-6 * work.student) << it.what;
  }
}

// A network of 128 columns on 1,152 tokens, its passes counted apart: 7.39 and 4.45 GFLOP forward,
// 24.3 and 13.9 with backward and without recompute.
TEST(TrainingCost, TheTinyNetwork) {
  WanDitConfig tiny{.num_heads = 2,
                    .head_dim = 64,
                    .num_layers = 6,
                    .ffn_dim = 512,
                    .in_channels = 8,
                    .out_channels = 8,
                    .text_dim = 128,
                    .freq_dim = 256};
  EXPECT_EQ(sum(unit_parameters(tiny)), 1'782'176);
  const TokenGrid grid{8, 12, 12};
  ASSERT_EQ(grid.num_tiles(), 18);
  const RecomputedBlocks none{0};
  const PassWork dense = training_pass(tiny, grid, {}, 32, none, true);
  EXPECT_NEAR(dense.forward / kGiga, 7.39, 0.02);
  EXPECT_NEAR(dense.total() / kGiga, 24.3, 0.1);
  tiny.is_gated = true;
  EXPECT_EQ(sum(unit_parameters(tiny)), 1'881'248);
  const PassWork sparse =
      training_pass(tiny, grid, {.topk = 4, .uses_gates = true}, 32, none, true);
  EXPECT_NEAR(sparse.forward / kGiga, 4.45, 0.02);
  EXPECT_NEAR(sparse.total() / kGiga, 13.9, 0.1);
}

TEST(TrainingCost, RecomputeAddsForwardsOfTheBlocksItNames) {
  const WanDitConfig config = wan_1_3b(false);
  const TokenGrid grid{16, 28, 52};
  const auto recomputed = [&](int64_t one_of) {
    return training_pass(config, grid, {}, 512, {one_of}, true).recompute;
  };
  const double blocks = 30 * block_work(config, grid, {}, 512).total();
  EXPECT_EQ(recomputed(0), 0);
  EXPECT_DOUBLE_EQ(recomputed(1), blocks);
  EXPECT_DOUBLE_EQ(recomputed(4), blocks * 8 / 30) << "blocks 0, 4, ..., 28";
}

TEST(TrainingCost, FrozenWeightsNeedNoGradient) {
  const WanDitConfig config = wan_1_3b(false);
  const TokenGrid grid{16, 28, 52};
  const PassWork full = training_pass(config, grid, {}, 512, {0}, true);
  const PassWork adapters = training_pass(config, grid, {}, 512, {0}, false);
  const DitWork work = forward_work(config, grid, {}, 512);
  EXPECT_DOUBLE_EQ(full.backward - adapters.backward, work.linears + work.ends);
}

// 30 x 29,120 x 1536 bf16 values: the inputs of all blocks.
TEST(TrainingCost, FullRecomputeKeepsTheInputsOfUnits) {
  const WanDitConfig config = wan_1_3b(false);
  const TokenGrid grid{20, 28, 52};
  const double input = 2.0 * 29120 * 1536;
  EXPECT_NEAR(30 * input / kGiga, 2.7, 0.02);
  const double full = pass_memory(config, grid, {}, 1, {1}, 2);
  const double half = pass_memory(config, grid, {}, 1, {2}, 2);
  const double none = pass_memory(config, grid, {}, 1, {0}, 2);
  EXPECT_GT(full, 32 * input);
  EXPECT_LT(full, 70 * input) << "one block's own activations besides";
  EXPECT_GT(half, 10 * full / 2);
  EXPECT_GT(none, 1.8 * half);
  EXPECT_DOUBLE_EQ(pass_memory(config, grid, {}, 3, {1}, 2), 3 * full);
}

}  // namespace
}  // namespace fastwan::layout
