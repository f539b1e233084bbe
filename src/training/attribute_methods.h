// Training networks to name the attributes of procedural clips: the text encoder from captions, the
// feature net from pixels. Loss: the sum of the attributes' mean cross entropies.
//
// Dims    b samples, A attributes, L tokens
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "models/parameters.h"
#include "models/umt5.h"
#include "training/method.h"

namespace fastwan::training {

struct Attribute {
  std::string name;
  int64_t num_classes = 2;
};

// logits: A of [b, classes]; labels [b, A] int64 -> scalar.
at::Tensor attribute_loss(const std::vector<at::Tensor>& logits, const at::Tensor& labels);
// Share of right answers of each attribute.
std::vector<double> attribute_accuracy(const std::vector<at::Tensor>& logits,
                                       const at::Tensor& labels);

// A text encoder with a linear head for each attribute on the mean of its states. The heads serve
// training alone; what is kept is the encoder.
class TextProbe final : public torch::nn::Module {
 public:
  // Parameters text_encoder.<Umt5's> and heads.<attribute>.{weight,bias}; heads are not
  // initialised.
  TextProbe(std::shared_ptr<models::Umt5> encoder, std::vector<Attribute> attributes);

  // Weights and biases as torch's linear layers start.
  void initialise_heads(uint64_t seed) const;

  // Token ids of b captions, each at its true length -> A of [b, classes]. Captions of one length
  // go through the encoder together.
  std::vector<at::Tensor> logits(const std::vector<std::vector<int64_t>>& ids) const;
  // The mean states: [b, d_model].
  at::Tensor pooled(const std::vector<std::vector<int64_t>>& ids) const;
  const std::vector<Attribute>& attributes() const { return attributes_; }
  at::Device device() const { return heads_.front().weight.device(); }

 private:
  std::shared_ptr<models::Umt5> encoder_;
  std::vector<Attribute> attributes_;
  std::vector<models::Linear> heads_;
};

// Answers of a network on a micro-batch: A of [b, classes], in grad mode with gradient.
using AttributeLogits = std::function<std::vector<at::Tensor>(const MicroBatch& batch)>;
using Tokenise = std::function<std::vector<int64_t>(const std::string& caption)>;
AttributeLogits logits_of(const std::shared_ptr<TextProbe>& probe, Tokenise tokenise);

class TrainAttributes final : public Method {
 public:
  // `units` hold the network's parameters and outlive the method.
  TrainAttributes(AttributeLogits logits, std::vector<Attribute> attributes, Units& units);

  std::vector<std::string> updates(int64_t step) const override;
  // Metrics  train_loss, accuracy/<attribute>, accuracy (their mean)
  Metrics accumulate(const std::string& network,
                     int64_t step,
                     const MicroBatch& batch,
                     double share) override;
  std::map<std::string, Trained> networks() override;

 private:
  AttributeLogits logits_;
  std::vector<Attribute> attributes_;
  Units& units_;
};

}  // namespace fastwan::training
