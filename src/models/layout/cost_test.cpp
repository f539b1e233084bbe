#include "models/layout/cost.h"

#include <gtest/gtest.h>

namespace fastwan::layout {
namespace {

constexpr double kTera = 1e12;

WanDitConfig dit(int64_t heads, int64_t layers, int64_t ffn, int64_t channels) {
  return {.num_heads = heads,
          .head_dim = 128,
          .num_layers = layers,
          .ffn_dim = ffn,
          .in_channels = channels,
          .out_channels = channels,
          .text_dim = 4096,
          .freq_dim = 256};
}
const WanDitConfig k1_3B = dit(12, 30, 8960, 16);
const WanDitConfig k14B = dit(40, 40, 13824, 16);
const WanDitConfig k5B = dit(24, 30, 14336, 48);
const Umt5Config kUmt5Xxl{.d_model = 4096,
                          .d_kv = 64,
                          .num_heads = 64,
                          .d_ff = 10240,
                          .num_layers = 24,
                          .vocab_size = 256384};
const WanVaeConfig kVae22{.base_dim = 160,
                          .decoder_base_dim = 256,
                          .z_dim = 48,
                          .is_residual = true,
                          .in_channels = 12,
                          .out_channels = 12,
                          .patch_size = 2,
                          .scale_factor_spatial = 16};

// 4,096 tokens and 512 text rows, each product written out.
TEST(Cost, ABlockIsTheSumOfItsProducts) {
  const double D = 1536;
  const double S = 4096;
  const double L = 512;
  const DitWork work = block_work(k1_3B, {.T = 16, .H = 16, .W = 16}, {}, 512);
  const double video_part = 8 * S * D * D        // q, k, v, o
                            + 4 * S * S * D      // scores and values
                            + 4 * S * D * D      // cross-attention's q and o
                            + 4 * S * D * 8960;  // feed-forward
  const double text_part = 4 * L * D * D + 4 * S * L * D;
  EXPECT_DOUBLE_EQ(work.total(), video_part + text_part);
  EXPECT_NEAR(video_part, 444.5e9, 0.1e9);
  EXPECT_NEAR(work.total(), 462.2e9, 0.1e9);
}

TEST(Cost, TilesRoundUpOnEveryAxis) {
  EXPECT_EQ((TokenGrid{.T = 21, .H = 30, .W = 52}.num_tiles()), 624);
  EXPECT_EQ((TokenGrid{.T = 4, .H = 4, .W = 4}.num_tiles()), 1);
  EXPECT_EQ((TokenGrid{.T = 5, .H = 4, .W = 4}.num_tiles()), 2);
  const TokenGrid grid =
      token_grid(k1_3B, {.channels = 16, .frames = 21, .height = 60, .width = 104});
  EXPECT_EQ(grid.num_tokens(), 32760);
}

struct Shape {
  const WanDitConfig& config;
  TokenGrid grid;
  int64_t topk;
  double dense, sparse;  // tera-operations of a forward with 512 text rows
};

// The published profiles, counted apart from this code.
TEST(Cost, AForwardOfThePublishedModels) {
  const Shape shapes[] = {{k1_3B, {21, 30, 52}, 125, 283.0, 148.8},
                          {k1_3B, {16, 28, 52}, 73, 160.7, 84.0},
                          {k14B, {21, 30, 52}, 63, 1678, 1000},
                          {k14B, {21, 45, 80}, 144, 6523, 2697},
                          {k5B, {31, 22, 40}, 96, 517.0, 327.8}};
  for (const Shape& shape : shapes) {
    const DitWork dense = forward_work(shape.config, shape.grid, {}, 512);
    EXPECT_NEAR(dense.total() / kTera, shape.dense, shape.dense * 1e-3);
    EXPECT_EQ(dense.gates, 0);
    const AttentionMode mode{.topk = shape.topk, .uses_gates = true};
    EXPECT_NEAR(forward_work(shape.config, shape.grid, mode, 512).total() / kTera, shape.sparse,
                shape.sparse * 1e-3);
  }
}

TEST(Cost, WithoutGatesThereIsNoCoarseTerm) {
  const TokenGrid grid{16, 28, 52};
  const DitWork gated = block_work(k1_3B, grid, {.topk = 73, .uses_gates = true}, 512);
  const DitWork ungated = block_work(k1_3B, grid, {.topk = 73}, 512);
  EXPECT_DOUBLE_EQ(gated.gates, 2.0 * 23296 * 1536 * 1536);
  EXPECT_DOUBLE_EQ(gated.attention - ungated.attention, 2.0 * 364 * 364 * 1536);
}

TEST(Cost, TheTextEncoder) {
  EXPECT_NEAR(encoder_work(kUmt5Xxl, 512) / kTera, 4.84, 0.005);
  EXPECT_NEAR(encoder_work(kUmt5Xxl, 64) / kTera, 0.59, 0.005);
}

TEST(Cost, TheDecoders) {
  const WanVaeConfig vae21;
  EXPECT_NEAR(decode_work(vae21, {16, 21, 60, 104}) / kTera, 275.4, 0.3);
  EXPECT_NEAR(decode_work(vae21, {16, 16, 56, 104}) / kTera, 193.7, 0.2);
  EXPECT_NEAR(decode_work(vae21, {16, 21, 90, 160}) / kTera, 639.2, 0.7);
  EXPECT_NEAR(decode_work(vae21, {16, 1, 60, 104}) / kTera, 4.35, 0.01);
  EXPECT_NEAR(decode_work(kVae22, {48, 31, 44, 80}) / kTera, 2011, 2);
}

// By hand for a VAE of one level step: widths 8, 16; two pixels a latent; frames stay.
TEST(Cost, AnEncoderCountedByHand) {
  const WanVaeConfig tiny{.base_dim = 8,
                          .decoder_base_dim = 8,
                          .z_dim = 4,
                          .dim_mult = {1, 2},
                          .num_res_blocks = 1,
                          .temporal_downsample = {false},
                          .scale_factor_temporal = 1,
                          .scale_factor_spatial = 2};
  const double full = 8 * 8;                            // positions before the step down
  const double half = 4 * 4;                            // and after it
  const double convs = 27 * (3 * 8 + 2 * 8 * 8) * full  // conv_in, first block
                       + 9 * 8 * 8 * half               // step down
                       + (27 * (8 * 16 + 16 * 16) + 8 * 16) * half  // second block, shortcut
                       + (4 * 27 * 16 * 16 + 4 * 16 * 16) * half    // middle: four 3x3x3, qkv, proj
                       + (27 * 16 * 8 + 8 * 8) * half;              // conv_out, quant_conv
  const double attention = 4 * half * half * 16;
  EXPECT_DOUBLE_EQ(encode_work(tiny, {4, 1, 4, 4}), 2 * convs + attention);
}

TEST(Cost, MemoryGrowsWithTheStageThatIsWidest) {
  const TokenGrid grid{21, 30, 52};
  // 1.3B in fp32: residual and input of the feed-forward, twice its hidden rows.
  EXPECT_DOUBLE_EQ(forward_memory(k1_3B, grid, {}, 4), 4.0 * 32760 * (2 * 1536 + 2 * 8960));
  EXPECT_DOUBLE_EQ(forward_memory(k1_3B, grid, {}, 2), 2.0 * 32760 * (2 * 1536 + 2 * 8960));
  const WanVaeConfig vae21;
  const double small = decode_memory(vae21, {16, 3, 16, 28}, 4);
  EXPECT_DOUBLE_EQ(decode_memory(vae21, {16, 21, 16, 28}, 4), small) << "one chunk at a time";
  EXPECT_DOUBLE_EQ(decode_memory(vae21, {16, 3, 32, 28}, 4), 2 * small);
}

}  // namespace
}  // namespace fastwan::layout
