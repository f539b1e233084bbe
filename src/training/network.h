// A WanDit as training runs it: unit by unit, each gathered, used and let go; one autograd Function
// around the whole call, so that a loss is plain tensor maths.
//
//   forward   root_in (patches, time, text), blocks 0 .. L-1, root_out (head). What is kept for
//             backward is the input of each unit (recompute) or its graph
//   backward  root_out, L-1 .. 0, root_in: run again with grad on detached inputs, backward, the
//             gradient of the input goes on. What all blocks share (modulation [U, 6, D], time
//             embedding [U, D], text [B, L, D]) is a leaf whose gradient adds up in that order and
//             enters root_in last
//
// The second run equals the first bit by bit, the tiles that sparse attention selects included:
// both run the same operators in the same grad mode on the same inputs and values, and those
// operators are deterministic. Every rank makes its collectives in the same order.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "distributed/comm.h"
#include "models/wan_dit.h"
#include "training/units.h"

namespace fastwan::training {

// root_in, block_0 .. block_{L-1}, root_out.
std::vector<UnitNames> wan_units(const models::WanDit& model);

// The rounding profile in which a network of this compute dtype trains: parameters of one dtype
// (bf16, fp32, fp64), norms, modulation and rotation in fp32 or wider. InvalidInput bad_value for
// other types.
models::RoundingProfile training_profile(at::ScalarType compute);

enum class Recompute {
  kNone,   // every unit keeps its graph: fastest, most memory
  kFull,   // every block runs twice
  kEveryN  // blocks 0, n, 2n, ... run twice, the others keep their graphs
};

class Network;

struct NetworkOptions {
  bool is_trainable = true;
  Recompute recompute = Recompute::kFull;
  int64_t every_n = 1;  // kEveryN; 1 is kFull
  // Which parameters train, by name; all where empty. The others are frozen: held in the compute
  // dtype, without gradient, never written.
  std::function<bool(const std::string&)> trains;
  // Frozen weights are those of this network's, held once: one base and several sets of adapters
  // are student, critic and teacher. Every frozen weight of this network is frozen there.
  std::shared_ptr<const Network> base;
  at::Device device = at::kCPU;
};

class Network {
 public:
  // The parameters' present values are the start; initialise() sets others.
  Network(std::shared_ptr<models::WanDit> model,
          const NetworkOptions& options,
          const distributed::Mesh& mesh);

  // latents [B, C, T, H, W], timestep [B] or [B, S] fp32 in 0..1000, encoded_text [B, L, text_dim]
  // (the encoder's output, zero rows included) -> velocity [B, C, T, H, W] in the compute dtype.
  // With grad mode on, backward adds to the gradients of units() and returns those of latents and
  // encoded_text where they are wanted; the parameters must not change before it has run.
  at::Tensor velocity(const at::Tensor& latents,
                      const at::Tensor& timestep,
                      const at::Tensor& encoded_text);

  // Calls `write` while the model's parameters are whole tensors, the trained ones in the master
  // dtype: weights of a file arrive unrounded (models::load_wan_dit_weights).
  void initialise(const std::function<void()>& write);

  // Of later calls; a backward uses the attention of its forward. Wants a gate only where the model
  // has one.
  void set_attention(std::shared_ptr<const ops::Attention> attention);
  const std::shared_ptr<const ops::Attention>& attention() const { return attention_; }

  // What the optimizer updates; of a network that does not train: all its parameters.
  Units& units() { return trained_ ? *trained_ : *frozen_; }

  // What never changes; null where everything trains.
  const Units* frozen() const { return frozen_.get(); }

  const models::WanDit& model() const { return *model_; }
  const std::shared_ptr<models::WanDit>& shared_model() const { return model_; }

 private:
  std::shared_ptr<models::WanDit> model_;
  NetworkOptions options_;
  std::shared_ptr<const ops::Attention> attention_;
  std::unique_ptr<Units> trained_;  // either may be absent
  std::shared_ptr<Units> frozen_;   // of several networks where they share a base
  ops::AttentionPlan plan_;
  models::Rope rope_;               // of the last latent shape
  std::vector<int64_t> plan_grid_;  // its T, H, W
  at::Tensor anchor_;               // makes the result of a call want a gradient
};

}  // namespace fastwan::training
