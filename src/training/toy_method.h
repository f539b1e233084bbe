// For tests: a method of two small linear networks with the shape of a distillation: the critic
// learns in every iteration, the student in every second, from noise that depends on seed, step and
// slot alone.
#pragma once

#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/stack.h>
#include <torch/nn/module.h>

#include "base/rng.h"
#include "data/source.h"
#include "distributed/comm.h"
#include "models/parameters.h"
#include "training/method.h"

namespace fastwan::testing {

constexpr int64_t kToyIn = 6, kToyOut = 5;

// Unit Gaussian numbers times `std`, other ones for every `key`.
inline at::Tensor toy_tensor(int64_t key, at::IntArrayRef shape, double std = 1) {
  const at::Tensor out = at::empty(shape, at::kFloat);
  Philox(5, Stream::kInit, 0, key)
      .fill_normal(0, {out.mutable_data_ptr<float>(), static_cast<std::size_t>(out.numel())});
  return out * std;
}

struct ToyNetwork {
  ToyNetwork(int64_t key, const distributed::Mesh& mesh)
      : linear(models::Linear::make(*module, "linear", kToyIn, kToyOut, at::kFloat)) {
    const c10::NoGradGuard no_grad;
    linear.weight.copy_(toy_tensor(key, linear.weight.sizes(), 0.4));
    linear.bias.zero_();
    units = std::make_unique<training::Units>(*module, training::one_unit(*module),
                                              training::UnitsOptions{}, mesh);
  }
  // x [b, kToyIn] -> [b, kToyOut]; adds share times the loss's gradient, returns the loss.
  double learn(const at::Tensor& x, const at::Tensor& wanted, double share) {
    const auto gathered = units->gather(0);
    units->open_gradients(0);
    const auto parameters = module->named_parameters();
    const at::Tensor loss = at::mse_loss(
        at::linear(x, parameters["linear.weight"], parameters["linear.bias"]).tanh(), wanted);
    (loss * share).backward();
    units->close_gradients(0);
    return loss.item<double>();
  }

  std::shared_ptr<torch::nn::Module> module = std::make_shared<torch::nn::Module>();
  models::Linear linear;
  std::unique_ptr<training::Units> units;
};

class ToyMethod final : public training::Method {
 public:
  explicit ToyMethod(const distributed::Mesh& mesh) : student_(1, mesh), critic_(2, mesh) {}

  std::vector<std::string> updates(int64_t step) const override {
    return step % 2 == 0 ? std::vector<std::string>{"student", "critic"}
                         : std::vector<std::string>{"critic"};
  }

  training::Metrics accumulate(const std::string& network,
                               int64_t step,
                               const training::MicroBatch& batch,
                               double share) override {
    const bool is_student = network == "student";
    std::vector<at::Tensor> rows;
    for (const int64_t slot : batch.slots) {
      at::Tensor row = at::empty({kToyIn}, at::kFloat);
      Philox(11, is_student ? Stream::kStudentNoise : Stream::kFakeNoise, step, slot)
          .fill_normal(0, {row.mutable_data_ptr<float>(), static_cast<std::size_t>(kToyIn)});
      rows.push_back(row);
    }
    at::Tensor x = at::stack(rows) + batch.latents.flatten(1).narrow(1, 0, kToyIn);  // [b, in]
    if (step == poisoned_step) {
      x = x * std::numeric_limits<float>::quiet_NaN();
    }
    slots_seen.insert(slots_seen.end(), batch.slots.begin(), batch.slots.end());
    ToyNetwork& net = is_student ? student_ : critic_;
    const double loss = net.learn(x, batch.text.flatten(1).narrow(1, 0, kToyOut), share);
    return {{is_student ? "train_generator_loss" : "train_loss", loss}};
  }

  std::map<std::string, training::Trained> networks() override {
    return {{"student", {.units = student_.units.get()}},
            {"critic", {.units = critic_.units.get()}}};
  }

  int64_t poisoned_step = -1;       // its inputs are NaN
  std::vector<int64_t> slots_seen;  // in order of use

 private:
  ToyNetwork student_, critic_;
};

// `count` rows of latents [2, 1, 2, 2] and texts [3, 4].
inline std::shared_ptr<const data::Source> toy_source(int64_t count) {
  std::vector<data::Example> examples;
  for (int64_t i = 0; i < count; ++i) {
    const std::string name = "row " + std::to_string(i);
    examples.push_back({.id = name,
                        .caption = name,
                        .latents = toy_tensor(100 + i, {2, 1, 2, 2}),
                        .text = toy_tensor(200 + i, {3, 4}, 0.5)});
  }
  return std::make_shared<data::MemorySource>(std::move(examples));
}

}  // namespace fastwan::testing
