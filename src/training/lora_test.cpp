#include "training/lora.h"

#include <cmath>

#include <ATen/ops/matmul.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "support/compare.h"
#include "support/tiny_wan.h"
#include "training/clip.h"
#include "training/optimizer.h"

namespace fastwan::training {
namespace {

using testing::dense;
using testing::flow_loss;
using testing::is_equal;
using testing::relative_l2;
using testing::sparse;
using testing::tiny_batch;
using testing::tiny_wan;
using testing::TinyBatch;

const LoraOptions kOptions{.rank = 3, .alpha = 6, .trains_gates = true, .seed = 4};

std::unique_ptr<Network> lora_network(const LoraOptions& options, at::ScalarType compute) {
  const auto model = tiny_wan(sparse(), compute, 2);
  add_lora(*model, options);
  return std::make_unique<Network>(model, NetworkOptions{.trains = lora_trains(options)},
                                   distributed::one_process());
}

void train(Network& network, const TinyBatch& batch, int steps) {
  AdamW optimizer(network.units(), {});
  for (int i = 0; i < steps; ++i) {
    flow_loss(network, batch).backward();
    clip_gradient(network.units(), 1.0, "student");
    optimizer.step(1e-2);
    network.units().zero_gradients();
  }
}

std::vector<at::Tensor> frozen_values(const Network& network) {
  std::vector<at::Tensor> values;
  for (const Units::Named& named : network.frozen()->values()) {
    values.push_back(named.value.clone());
  }
  return values;
}

TEST(Lora, StartsAsItsBase) {
  const TinyBatch batch = tiny_batch(/*is_large=*/true, at::kFloat);
  const auto network = lora_network(kOptions, at::kFloat);
  Network base(tiny_wan(sparse(), at::kFloat, 2), {}, distributed::one_process());
  const c10::NoGradGuard no_grad;
  EXPECT_TRUE(is_equal(network->velocity(batch.latents, batch.timestep, batch.encoded),
                       base.velocity(batch.latents, batch.timestep, batch.encoded)));
}

TEST(Lora, BaseBytesDoNotChangeIn50StepsAndTheLossFalls) {
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
    const TinyBatch batch = tiny_batch(/*is_large=*/false, at::kFloat);
    const auto network = lora_network(kOptions, compute);
    const double before = flow_loss(*network, batch).item<double>();
    const std::vector<at::Tensor> base = frozen_values(*network);
    train(*network, batch, 50);
    const std::vector<at::Tensor> now = frozen_values(*network);
    ASSERT_EQ(now.size(), base.size());
    for (std::size_t i = 0; i < base.size(); ++i) {
      EXPECT_TRUE(is_equal(now[i], base[i])) << i;
    }
    EXPECT_LT(flow_loss(*network, batch).item<double>(), 0.9 * before);
  }
}

TEST(Lora, EveryAdapterAndGateLearns) {
  const TinyBatch batch = tiny_batch(/*is_large=*/true, at::kFloat);
  const auto network = lora_network(kOptions, at::kFloat);
  const LoraExport before = export_lora(*network, kOptions);
  std::vector<at::Tensor> start;
  for (const auto& tensor : before.tensors) {
    start.push_back(tensor.tensor.clone());
  }
  train(*network, batch, 3);
  const LoraExport after = export_lora(*network, kOptions);
  ASSERT_EQ(after.tensors.size(), start.size());
  for (std::size_t i = 0; i < start.size(); ++i) {
    const std::string& name = after.tensors[i].name;
    EXPECT_EQ(name.ends_with(".alpha"), is_equal(after.tensors[i].tensor, start[i])) << name;
  }
}

TEST(Lora, MergedWeightsComputeTheSame) {
  const TinyBatch batch = tiny_batch(/*is_large=*/true, at::kDouble);
  const auto network = lora_network(kOptions, at::kDouble);
  train(*network, batch, 5);
  const auto merged = tiny_wan(sparse(), at::kDouble, 2);
  const c10::NoGradGuard no_grad;
  const auto parameters = merged->named_parameters();
  const std::vector<Units::Named> values = network->units().values();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (const std::size_t at = values[i].name.find(".lora_A"); at != std::string::npos) {
      // lora_B of a module follows its lora_A in the order of names.
      parameters[values[i].name.substr(0, at) + ".weight"].add_(
          at::matmul(values[i + 1].value, values[i].value), kOptions.alpha / 3.0);
    } else if (values[i].name.find(".lora_B") == std::string::npos) {
      parameters[values[i].name].copy_(values[i].value);
    }
  }
  const at::Tensor want = network->velocity(batch.latents, batch.timestep, batch.encoded);
  const at::Tensor got =
      merged->forward(batch.latents, batch.timestep, merged->embed_text(batch.encoded),
                      merged->plan_for(batch.latents.sizes(), at::kCPU));
  EXPECT_LE(relative_l2(got, want), 1e-12);
  const at::Tensor base =
      tiny_wan(sparse(), at::kDouble, 2)
          ->forward(batch.latents, batch.timestep, merged->embed_text(batch.encoded),
                    merged->plan_for(batch.latents.sizes(), at::kCPU));
  EXPECT_GT(relative_l2(base, want), 1e-2);
}

TEST(Lora, ExportHoldsAdaptersGatesAndNothingOfTheBase) {
  const auto network = lora_network(kOptions, at::kFloat);
  const LoraExport out = export_lora(*network, kOptions);
  EXPECT_EQ(out.metadata.at("alpha"), "6");
  EXPECT_EQ(out.metadata.at("rank"), "3");
  std::size_t num_a = 0, num_b = 0, num_alpha = 0, num_gates = 0;
  for (const auto& [name, tensor] : out.tensors) {
    num_a += name.ends_with(".lora_A.weight") ? 1 : 0;
    num_b += name.ends_with(".lora_B.weight") ? 1 : 0;
    num_alpha += name.ends_with(".alpha") ? 1 : 0;
    num_gates += name.find("to_gate_compress") != std::string::npos ? 1 : 0;
    if (name == "blocks.1.attn2.to_out.0.lora_A.weight") {
      EXPECT_EQ(tensor.sizes(), (std::vector<int64_t>{3, 24}));
      EXPECT_LE(tensor.abs().max().item<double>(), 1.0 / std::sqrt(24.0));
      EXPECT_GT(tensor.abs().max().item<double>(), 0.5 / std::sqrt(24.0));
    }
  }
  EXPECT_EQ(num_a, 16u);
  EXPECT_EQ(num_b, 16u);
  EXPECT_EQ(num_alpha, 16u);
  EXPECT_EQ(num_gates, 4u);
  EXPECT_EQ(out.tensors.size(), 52u);
}

TEST(Lora, GatesGetAdaptersWhereTheyAreNotTrainedWhole) {
  const auto network = lora_network({.rank = 2, .alpha = 2}, at::kFloat);
  const LoraExport out = export_lora(*network, {.rank = 2, .alpha = 2});
  EXPECT_EQ(out.tensors.size(), 2u * 2u * 9u);
}

TEST(Lora, AdaptersGoWhereTheTargetModulesSay) {
  const auto names_of = [](const std::vector<std::string>& words) {
    const LoraOptions options{.rank = 2, .alpha = 2, .target_modules = words};
    const auto network = lora_network(options, at::kFloat);
    std::vector<std::string> names;
    for (const auto& [name, tensor] : export_lora(*network, options).tensors) {
      if (name.starts_with("blocks.1.") && name.ends_with(".lora_A.weight")) {
        names.push_back(name.substr(9, name.size() - 9 - 14));
      }
    }
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(names_of({"ffn", "attn2.to_v"}), (Names{"attn2.to_v", "ffn.net.0.proj", "ffn.net.2"}));
  EXPECT_EQ(names_of({"to_out", "q_proj", "to_gate_compress"}),
            (Names{"attn1.to_out.0", "attn2.to_out.0", "to_gate_compress"}));
  EXPECT_THROW(names_of({"to_q", "to_w"}), InvalidInput);
  EXPECT_THROW(names_of({"q_proj"}), InvalidInput);
}

// Student with sparse attention and gates, dense critic, dense teacher: one set of base weights.
TEST(Lora, NetworksOnOneBaseComputeAsIfEachHadItsOwn) {
  const TinyBatch batch = tiny_batch(/*is_large=*/true, at::kFloat);
  for (const at::ScalarType compute : {at::kFloat, at::kBFloat16}) {
    const std::shared_ptr<Network> student = lora_network(kOptions, compute);
    const auto critic = [&](std::shared_ptr<const Network> base) {
      const auto model = tiny_wan(dense(), compute, 2);
      add_lora(*model, {.rank = 2, .alpha = 2, .seed = 8});
      if (base != nullptr) {
        for (const auto& parameter : model->named_parameters()) {
          if (!lora_trains({})(parameter.key())) {
            parameter.value().fill_(99.0);  // the base's values count
          }
        }
      }
      return std::make_unique<Network>(model,
                                       NetworkOptions{.trains = lora_trains({}), .base = base},
                                       distributed::one_process());
    };
    const auto teacher_model = tiny_wan(dense(), compute, 2);
    Network teacher(teacher_model, {.is_trainable = false, .base = student},
                    distributed::one_process());
    const auto shared = critic(student), own = critic(nullptr);
    train(*student, batch, 2);
    train(*shared, batch, 2);
    train(*own, batch, 2);
    const c10::NoGradGuard no_grad;
    const at::Tensor want = own->velocity(batch.latents, batch.timestep, batch.encoded);
    EXPECT_TRUE(is_equal(shared->velocity(batch.latents, batch.timestep, batch.encoded), want));
    Network alone(tiny_wan(dense(), compute, 2), {.is_trainable = false},
                  distributed::one_process());
    EXPECT_TRUE(is_equal(teacher.velocity(batch.latents, batch.timestep, batch.encoded),
                         alone.velocity(batch.latents, batch.timestep, batch.encoded)));
  }
}

TEST(Lora, StartValuesAreAFunctionOfTheSeed) {
  const auto first_a = [](uint64_t seed) {
    const auto model = tiny_wan(dense(), at::kFloat, 1);
    add_lora(*model, {.rank = 2, .alpha = 2, .seed = seed});
    return model->named_parameters()["blocks.0.attn1.to_q.lora_A.weight"].clone();
  };
  EXPECT_TRUE(is_equal(first_a(1), first_a(1)));
  EXPECT_FALSE(is_equal(first_a(1), first_a(2)));
}

}  // namespace
}  // namespace fastwan::training
