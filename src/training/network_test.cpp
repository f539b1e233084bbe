#include "training/network.h"

#include <cmath>
#include <functional>
#include <map>

#include <ATen/Parallel.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/isnan.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "base/text.h"
#include "support/compare.h"
#include "support/golden.h"
#include "support/thread_comm.h"
#include "support/tiny_wan.h"
#include "training/clip.h"
#include "training/optimizer.h"

namespace fastwan::training {
namespace {

using testing::dense;
using testing::flow_loss;
using testing::golden_tensor;
using testing::gradients_of;
using testing::is_equal;
using testing::on_ranks;
using testing::relative_l2;
using testing::sparse;
using testing::tiny_batch;
using testing::tiny_wan;
using testing::TinyBatch;

std::unique_ptr<Network> network_of(std::shared_ptr<models::WanDit> model,
                                    const NetworkOptions& options = {},
                                    const distributed::Mesh& mesh = distributed::one_process()) {
  return std::make_unique<Network>(std::move(model), options, mesh);
}

at::Tensor flat_gradient(const Units& units) {
  std::vector<at::Tensor> all;
  for (int64_t i = 0; i < units.count(); ++i) {
    all.push_back(units.gradient(i));
  }
  return at::cat(all).clone();
}

// --- gradients against finite differences

constexpr int kDirections = 64;
constexpr double kStep = 1e-6;
constexpr double kAllowed = 1e-6;

// What a parameter is for; blocks together.
std::string class_of(const std::string& name) {
  const std::vector<std::pair<const char*, const char*>> classes = {
      {"patch_embedding", "patch embedding"},
      {"time_embedder", "time MLP"},
      {"time_proj", "time projection"},
      {"text_embedder", "text MLP"},
      {"scale_shift_table", "modulation tables"},
      {"attn1.norm", "q and k norm"},
      {"attn1", "self attention"},
      {"attn2", "cross attention"},
      {"norm2", "norm2"},
      {"ffn", "FFN"},
      {"proj_out", "head"},
      {"to_gate_compress", "gate"}};
  for (const auto& [part, its_class] : classes) {
    if (name.find(part) != std::string::npos) {
      return its_class;
    }
  }
  return name;
}

// The largest error over random directions d ~ N(0, 1) of <gradient, d> against the central
// difference, in units of |gradient|, which is the expected size of <gradient, d>.
double worst_error(const std::vector<at::Tensor>& parameters,
                   const std::vector<at::Tensor>& gradients,
                   const std::function<double()>& loss) {
  double worst = 0, norm = 0;
  for (const at::Tensor& g : gradients) {
    norm = std::hypot(norm, g.norm().item<double>());
  }
  at::set_num_threads(1);  // tensors are too small for more
  for (int i = 0; i < kDirections; ++i) {
    std::vector<at::Tensor> direction;
    double expected = 0;
    for (std::size_t k = 0; k < parameters.size(); ++k) {
      direction.push_back(
          golden_tensor("direction", str(i, "/", k), parameters[k].sizes()).to(at::kDouble));
      expected += (gradients[k] * direction[k]).sum().item<double>();
    }
    const auto move = [&](double step) {
      for (std::size_t k = 0; k < parameters.size(); ++k) {
        parameters[k].add_(direction[k], step);
      }
    };
    move(kStep);
    const double above = loss();
    move(-2 * kStep);
    const double below = loss();
    move(kStep);
    worst = std::max(worst, std::abs((above - below) / (2 * kStep) - expected) / norm);
  }
  return worst;
}

class FiniteDifferences : public ::testing::TestWithParam<bool> {};

// Which tiles are selected does not change within the step: a change would be a jump of the loss,
// and the difference of order 1 / kStep.
TEST_P(FiniteDifferences, AgreeWithTheGradientOfEveryParameterClass) {
  const bool is_sparse = GetParam();
  const auto network =
      network_of(tiny_wan(is_sparse ? sparse() : dense(), at::kDouble, is_sparse ? 1 : 2));
  // The plain sparse attention of fp64 is slow: what does not enter it is moved together.
  const auto group_of = [is_sparse](const std::string& name) {
    const std::string its_class = class_of(name);
    return is_sparse && its_class != "self attention" && its_class != "gate" &&
                   its_class != "q and k norm"
               ? "all others"
               : its_class;
  };
  const TinyBatch batch = tiny_batch(is_sparse, at::kDouble, is_sparse ? 1 : 2);
  flow_loss(*network, batch).backward();

  const c10::NoGradGuard no_grad;
  const auto loss = [&] { return flow_loss(*network, batch).item<double>(); };
  std::map<std::string, std::pair<std::vector<at::Tensor>, std::vector<at::Tensor>>> classes;
  const std::vector<Units::Named> values = network->units().values();
  const std::vector<Units::Named> gradients = gradients_of(network->units());
  for (std::size_t i = 0; i < values.size(); ++i) {
    ASSERT_EQ(values[i].name, gradients[i].name);
    auto& [parameters, of_class] = classes[group_of(values[i].name)];
    parameters.push_back(values[i].value);
    of_class.push_back(gradients[i].value);
  }
  EXPECT_EQ(classes.size(), is_sparse ? 4u : 11u);
  for (const auto& [name, pair] : classes) {
    const auto& [parameters, of_class] = pair;
    EXPECT_LE(worst_error(parameters, of_class, loss), kAllowed) << name;
  }
  // The measure sees an error of one part in 10^4.
  const auto& [parameters, of_class] = classes.at("self attention");
  std::vector<at::Tensor> wrong;
  for (const at::Tensor& g : of_class) {
    wrong.push_back(g * 1.0001);
  }
  EXPECT_GT(worst_error(parameters, wrong, loss), 10 * kAllowed);
}

TEST_P(FiniteDifferences, AgreeWithTheGradientOfLatentsAndText) {
  const bool is_sparse = GetParam();
  const auto network = network_of(tiny_wan(is_sparse ? sparse() : dense(), at::kDouble, 1));
  TinyBatch batch = tiny_batch(is_sparse, at::kDouble, 1);
  batch.latents.set_requires_grad(true);
  batch.encoded.set_requires_grad(true);
  flow_loss(*network, batch).backward();
  const std::vector<at::Tensor> gradients = {batch.latents.grad(), batch.encoded.grad()};
  const c10::NoGradGuard no_grad;
  EXPECT_LE(worst_error({batch.latents.detach(), batch.encoded.detach()}, gradients,
                        [&] { return flow_loss(*network, batch).item<double>(); }),
            kAllowed);
}

INSTANTIATE_TEST_SUITE_P(DenseAndSparse, FiniteDifferences, ::testing::Bool());

// --- one graph, however it is kept

struct Kind {
  const char* name;
  at::ScalarType type;
  bool is_sparse;
};

class RecomputeModes : public ::testing::TestWithParam<Kind> {};

TEST_P(RecomputeModes, GiveGradientsEqualInEveryBit) {
  const Kind kind = GetParam();
  const at::ScalarType wide = kind.type == at::kDouble ? at::kDouble : at::kFloat;
  const TinyBatch batch = tiny_batch(kind.is_sparse, wide);
  at::Tensor want, want_latents;
  for (const NetworkOptions& options :
       {NetworkOptions{.recompute = Recompute::kNone},
        NetworkOptions{.recompute = Recompute::kFull},
        NetworkOptions{.recompute = Recompute::kEveryN, .every_n = 2},
        NetworkOptions{.recompute = Recompute::kEveryN, .every_n = 3}}) {
    const auto network =
        network_of(tiny_wan(kind.is_sparse ? sparse() : dense(), kind.type), options);
    const at::Tensor latents = batch.latents.detach().clone().set_requires_grad(true);
    flow_loss(network->velocity(latents, batch.timestep, batch.encoded), batch.target).backward();
    const at::Tensor got = flat_gradient(network->units());
    ASSERT_EQ(got.scalar_type(), wide);
    ASSERT_GT(got.abs().max().item<double>(), 0);
    if (!want.defined()) {
      want = got;
      want_latents = latents.grad();
    }
    EXPECT_TRUE(is_equal(got, want)) << static_cast<int>(options.recompute);
    EXPECT_TRUE(is_equal(latents.grad(), want_latents));
  }
}

INSTANTIATE_TEST_SUITE_P(Types,
                         RecomputeModes,
                         ::testing::Values(Kind{"fp64_dense", at::kDouble, false},
                                           Kind{"fp64_sparse", at::kDouble, true},
                                           Kind{"fp32_dense", at::kFloat, false},
                                           Kind{"fp32_sparse", at::kFloat, true},
                                           Kind{"bf16_dense", at::kBFloat16, false},
                                           Kind{"bf16_sparse", at::kBFloat16, true}),
                         [](const auto& test) { return std::string(test.param.name); });

TEST(Network, GradientIsThatOfPlainAutograd) {
  const TinyBatch batch = tiny_batch(/*is_large=*/true, at::kDouble);
  const auto network = network_of(tiny_wan(sparse(), at::kDouble));
  flow_loss(*network, batch).backward();

  const auto model = tiny_wan(sparse(), at::kDouble);
  for (const auto& parameter : model->named_parameters()) {
    parameter.value().set_requires_grad(true);
  }
  const at::Tensor v =
      model->forward(batch.latents, batch.timestep, model->embed_text(batch.encoded),
                     model->plan_for(batch.latents.sizes(), at::kCPU));
  flow_loss(v, batch.target).backward();
  for (const Units::Named& got : gradients_of(network->units())) {
    EXPECT_LE(relative_l2(got.value, model->named_parameters()[got.name].grad()), 1e-12)
        << got.name;
  }
}

TEST(Network, VelocityIsTheSameWithAndWithoutGradient) {
  const TinyBatch batch = tiny_batch(/*is_large=*/true, at::kFloat);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const auto network = network_of(tiny_wan(sparse(), type));
    const at::Tensor with = network->velocity(batch.latents, batch.timestep, batch.encoded);
    EXPECT_TRUE(with.requires_grad());
    const c10::NoGradGuard no_grad;
    const at::Tensor without = network->velocity(batch.latents, batch.timestep, batch.encoded);
    EXPECT_FALSE(without.requires_grad());
    EXPECT_TRUE(is_equal(with.detach(), without));
    const auto model = tiny_wan(sparse(), type);
    EXPECT_TRUE(is_equal(
        without, model->forward(batch.latents, batch.timestep, model->embed_text(batch.encoded),
                                model->plan_for(batch.latents.sizes(), at::kCPU))));
  }
}

TEST(Network, MicroBatchesAddUpToTheLargeBatch) {
  const TinyBatch batch = tiny_batch(/*is_large=*/true, at::kDouble, 4);
  const auto whole = network_of(tiny_wan(sparse(), at::kDouble));
  flow_loss(*whole, batch).backward();
  const auto parts = network_of(tiny_wan(sparse(), at::kDouble));
  for (int64_t i = 0; i < 4; i += 2) {
    (flow_loss(*parts, batch.rows(i, 2)) / 2).backward();
  }
  const at::Tensor want = flat_gradient(whole->units());
  EXPECT_LE(relative_l2(flat_gradient(parts->units()), want), 1e-12);
  // The same micro-batch twice is another gradient.
  parts->units().zero_gradients();
  for (int64_t i = 0; i < 4; i += 2) {
    (flow_loss(*parts, batch.rows(2, 2)) / 2).backward();
  }
  EXPECT_GT(relative_l2(flat_gradient(parts->units()), want), 1e-3);
}

TEST(Network, TwoCallsOfOneLossEachGiveTheirGradient) {
  const TinyBatch batch = tiny_batch(/*is_large=*/false, at::kDouble);
  for (const Recompute mode : {Recompute::kNone, Recompute::kFull}) {
    const auto together = network_of(tiny_wan(dense(), at::kDouble), {.recompute = mode});
    (flow_loss(*together, batch.rows(0, 1)) + flow_loss(*together, batch.rows(1, 1))).backward();
    const auto apart = network_of(tiny_wan(dense(), at::kDouble), {.recompute = mode});
    flow_loss(*apart, batch.rows(0, 1)).backward();
    flow_loss(*apart, batch.rows(1, 1)).backward();
    EXPECT_LE(relative_l2(flat_gradient(together->units()), flat_gradient(apart->units())), 1e-13);
  }
}

TEST(Network, ABackwardUsesTheAttentionOfItsForward) {
  const TinyBatch batch = tiny_batch(/*is_large=*/true, at::kDouble);
  const auto network = network_of(tiny_wan(sparse(0.6), at::kDouble));
  flow_loss(*network, batch).backward();
  const at::Tensor want = flat_gradient(network->units());
  network->units().zero_gradients();
  const at::Tensor loss = flow_loss(*network, batch);
  network->set_attention(sparse(0.0));
  loss.backward();
  EXPECT_TRUE(is_equal(flat_gradient(network->units()), want));
  network->units().zero_gradients();
  flow_loss(*network, batch).backward();
  EXPECT_GT(relative_l2(flat_gradient(network->units()), want), 1e-3);
}

TEST(Network, GoesBackwardOnce) {
  const TinyBatch batch = tiny_batch(/*is_large=*/false, at::kFloat);
  const auto network = network_of(tiny_wan(dense(), at::kFloat));
  const at::Tensor loss = flow_loss(*network, batch);
  loss.backward();
  EXPECT_ANY_THROW(loss.backward());
}

TEST(Network, AChangeOfTheInputBetweenForwardAndBackwardIsNoticed) {
  const TinyBatch batch = tiny_batch(/*is_large=*/false, at::kFloat);
  const auto network = network_of(tiny_wan(dense(), at::kFloat));
  const at::Tensor loss = flow_loss(*network, batch);
  batch.latents.add_(1.0);
  EXPECT_ANY_THROW(loss.backward());
}

// --- what is frozen

TEST(Network, OneThatDoesNotTrainHasNoGradientAndHoldsTheComputeTypeAlone) {
  const TinyBatch batch = tiny_batch(/*is_large=*/false, at::kFloat);
  const auto network =
      network_of(tiny_wan(dense(), at::kBFloat16), NetworkOptions{.is_trainable = false});
  EXPECT_EQ(network->units().master_type(), at::kBFloat16);
  const at::Tensor v = network->velocity(batch.latents, batch.timestep, batch.encoded);
  EXPECT_FALSE(v.requires_grad());
  for (const auto& parameter : network->model().named_parameters()) {
    EXPECT_FALSE(parameter.value().requires_grad()) << parameter.key();
  }
}

TEST(Network, OneThatDoesNotTrainStillPassesTheGradientOfItsInputOn) {
  TinyBatch batch = tiny_batch(/*is_large=*/true, at::kDouble);
  const auto frozen =
      network_of(tiny_wan(sparse(), at::kDouble), NetworkOptions{.is_trainable = false});
  const auto trained = network_of(tiny_wan(sparse(), at::kDouble));
  at::Tensor want;
  for (Network* const network : {trained.get(), frozen.get()}) {
    const at::Tensor x = batch.latents.detach().clone().set_requires_grad(true);
    flow_loss(network->velocity(x, batch.timestep, batch.encoded), batch.target).backward();
    if (!want.defined()) {
      want = x.grad();
    }
    EXPECT_TRUE(is_equal(x.grad(), want));
  }
  for (const auto& parameter : frozen->model().named_parameters()) {
    EXPECT_FALSE(parameter.value().grad().defined()) << parameter.key();
  }
}

// --- bf16

TEST(NetworkBf16, MastersKeepWhatTheComputeTypeCannotHold) {
  const auto exact = tiny_wan(dense(), at::kFloat);
  const auto network = network_of(tiny_wan(dense(), at::kBFloat16));
  EXPECT_EQ(network->units().master_type(), at::kFloat);
  network->initialise([&] {
    for (const auto& parameter : network->model().named_parameters()) {
      parameter.value().copy_(exact->named_parameters()[parameter.key()]);
    }
  });
  for (const Units::Named& named : network->units().values()) {
    EXPECT_TRUE(is_equal(named.value, exact->named_parameters()[named.name])) << named.name;
  }
}

TEST(NetworkBf16, ParametersOutOfTurnAreNaN) {
  const auto network = network_of(tiny_wan(dense(), at::kBFloat16));
  const at::Tensor weight = network->model().named_parameters()["proj_out.weight"];
  EXPECT_TRUE(at::isnan(weight).all().item<bool>());
  {
    const auto gathered = network->units().gather_all();
    EXPECT_FALSE(at::isnan(weight).any().item<bool>());
    EXPECT_EQ(weight.scalar_type(), at::kBFloat16);
  }
  EXPECT_TRUE(at::isnan(weight).all().item<bool>());
}

TEST(NetworkBf16, GradientIsTheFp32OneUpToItsRoundings) {
  const TinyBatch batch = tiny_batch(/*is_large=*/false, at::kFloat);
  const auto wide = network_of(tiny_wan(dense(), at::kFloat));
  const auto narrow = network_of(tiny_wan(dense(), at::kBFloat16));
  flow_loss(*wide, batch).backward();
  flow_loss(*narrow, batch).backward();
  // Three blocks of about ten roundings of 2^-9 each way.
  EXPECT_LE(relative_l2(flat_gradient(narrow->units()), flat_gradient(wide->units())), 0.03);
}

// --- many ranks

struct Layout {
  int64_t replicate, shard;
  at::ScalarType type;
};

class NetworkOnRanks : public ::testing::TestWithParam<Layout> {};

// One training step: gradient, norm, clipping, update; each rank its share of the batch.
TEST_P(NetworkOnRanks, StepIsThatOfOneProcessWithTheWholeBatch) {
  const auto [replicate, shard, type] = GetParam();
  const int64_t world = replicate * shard;
  const TinyBatch batch = tiny_batch(/*is_large=*/true, type, 4);
  const auto step = [](Network& network, const TinyBatch& share) {
    AdamW optimizer(network.units(), {});
    flow_loss(network, share).backward();
    const Clipped clipped = clip_gradient(network.units(), 0.01, "student");
    optimizer.step(1e-3);
    return clipped.norm;
  };
  const auto alone = network_of(tiny_wan(sparse(), type));
  const double want_norm = step(*alone, batch);
  EXPECT_GT(want_norm, 0.01);  // the clip is active
  const std::vector<Units::Named> want = alone->units().values();
  std::vector<double> norms(static_cast<std::size_t>(world));
  std::vector<std::vector<Units::Named>> got(static_cast<std::size_t>(world));
  on_ranks(replicate, shard, [&](int64_t rank, const distributed::Mesh& mesh) {
    const auto network = network_of(tiny_wan(sparse(), type), {}, mesh);
    const auto r = static_cast<std::size_t>(rank);
    norms[r] = step(*network, batch.rows(rank * (4 / world), 4 / world));
    for (const Units::Named& named : network->units().values()) {
      got[r].push_back({.name = named.name, .value = named.value.clone()});
    }
  });
  const double allowed = type == at::kDouble ? 1e-12 : 1e-6;
  for (std::size_t r = 0; r < got.size(); ++r) {
    EXPECT_NEAR(norms[r], want_norm, allowed * want_norm);
    EXPECT_EQ(norms[r], norms[0]);
    ASSERT_EQ(got[r].size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_EQ(got[r][i].name, want[i].name);
      EXPECT_LE(relative_l2(got[r][i].value, want[i].value), allowed) << want[i].name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts,
                         NetworkOnRanks,
                         ::testing::Values(Layout{2, 1, at::kDouble},
                                           Layout{1, 2, at::kDouble},
                                           Layout{1, 4, at::kDouble},
                                           Layout{2, 2, at::kDouble},
                                           Layout{1, 2, at::kFloat}),
                         [](const auto& test) {
                           return str(test.param.replicate, "x", test.param.shard, "_",
                                      at::toString(test.param.type));
                         });

TEST(WanUnits, EveryParameterHasOneUnit) {
  const auto model = tiny_wan(sparse(), at::kFloat);
  const std::vector<UnitNames> units = wan_units(*model);
  ASSERT_EQ(units.size(), 5u);
  EXPECT_EQ(units[0].name, "root_in");
  EXPECT_EQ(units[2].name, "block_1");
  EXPECT_EQ(units[4].name, "root_out");
  std::size_t sum = 0;
  for (const UnitNames& unit : units) {
    sum += unit.parameters.size();
  }
  EXPECT_EQ(sum, model->named_parameters().size());
  EXPECT_EQ(units[4].parameters.size(), 3u);  // scale_shift_table, proj_out
}

}  // namespace
}  // namespace fastwan::training
