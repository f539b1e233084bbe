#include "training/attribute_methods.h"

#include <map>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/tensor.h>

#include "base/check.h"
#include "training/module_step.h"
#include "training/random_start.h"
#include "training/role.h"

namespace fastwan::training {
namespace {

constexpr const char* kNetwork = "student";

}  // namespace

at::Tensor attribute_loss(const std::vector<at::Tensor>& logits, const at::Tensor& labels) {
  at::Tensor sum;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const at::Tensor loss =
        at::cross_entropy_loss(logits[i], labels.select(1, static_cast<int64_t>(i)));
    sum = sum.defined() ? sum + loss : loss;
  }
  return sum;
}

std::vector<double> attribute_accuracy(const std::vector<at::Tensor>& logits,
                                       const at::Tensor& labels) {
  std::vector<double> shares;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const at::Tensor is_right =
        logits[i].argmax(1).eq(labels.select(1, static_cast<int64_t>(i)));  // [b]
    shares.push_back(is_right.to(at::kDouble).mean().item<double>());
  }
  return shares;
}

TextProbe::TextProbe(std::shared_ptr<models::Umt5> encoder, std::vector<Attribute> attributes)
    : encoder_(std::move(encoder)), attributes_(std::move(attributes)) {
  register_module("text_encoder", encoder_);
  const at::TensorOptions options = encoder_->parameters().front().options().requires_grad(false);
  for (const Attribute& attribute : attributes_) {
    heads_.push_back(models::Linear::make(*this, "heads." + attribute.name,
                                          encoder_->config().d_model, attribute.num_classes,
                                          options));
  }
}

void TextProbe::initialise_heads(uint64_t seed) const {
  for (std::size_t i = 0; i < heads_.size(); ++i) {
    fill_random(heads_[i], seed, static_cast<int64_t>(i));
  }
}

at::Tensor TextProbe::pooled(const std::vector<std::vector<int64_t>>& ids) const {
  std::map<std::size_t, std::vector<int64_t>> rows_by_length;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    rows_by_length[ids[i].size()].push_back(static_cast<int64_t>(i));
  }
  std::vector<at::Tensor> states;
  std::vector<int64_t> order(ids.size());
  int64_t place = 0;
  for (const auto& [length, rows] : rows_by_length) {
    std::vector<int64_t> flat;
    for (const int64_t row : rows) {
      const std::vector<int64_t>& tokens = ids[static_cast<std::size_t>(row)];
      flat.insert(flat.end(), tokens.begin(), tokens.end());
      order[static_cast<std::size_t>(row)] = place++;
    }
    const at::Tensor group =
        at::tensor(flat, at::kLong).view({static_cast<int64_t>(rows.size()), -1}).to(device());
    states.push_back(encoder_->forward(group).mean(1));  // [rows, d_model]
  }
  return at::cat(states).index_select(0, at::tensor(order, at::kLong).to(device()));
}

std::vector<at::Tensor> TextProbe::logits(const std::vector<std::vector<int64_t>>& ids) const {
  const at::Tensor state = pooled(ids);  // [b, d_model]
  std::vector<at::Tensor> out;
  for (const models::Linear& head : heads_) {
    out.push_back(head(state));
  }
  return out;
}

AttributeLogits logits_of(const std::shared_ptr<TextProbe>& probe, Tokenise tokenise) {
  return [probe, tokenise = std::move(tokenise)](const MicroBatch& batch) {
    std::vector<std::vector<int64_t>> ids;
    for (const std::string& caption : batch.captions) {
      ids.push_back(tokenise(caption));
    }
    return probe->logits(ids);
  };
}

TrainAttributes::TrainAttributes(AttributeLogits logits,
                                 std::vector<Attribute> attributes,
                                 Units& units)
    : logits_(std::move(logits)), attributes_(std::move(attributes)), units_(units) {}

std::vector<std::string> TrainAttributes::updates(int64_t /*step*/) const {
  return {kNetwork};
}

std::map<std::string, Trained> TrainAttributes::networks() {
  return {{kNetwork, {.units = &units_}}};
}

Metrics TrainAttributes::accumulate(const std::string& /*network*/,
                                    int64_t step,
                                    const MicroBatch& batch,
                                    double share) {
  std::vector<at::Tensor> logits;
  const at::Tensor loss = add_gradient(units_, share, [&] {
    logits = logits_(batch);
    invariant(logits.size() == attributes_.size(), "an answer for each attribute");
    return attribute_loss(logits, batch.labels);
  });
  const auto value = loss.item<double>();
  check_finite({.what = "the cross entropy", .step = step}, value);
  Metrics metrics{{"train_loss", value}};
  const std::vector<double> shares = attribute_accuracy(logits, batch.labels);
  for (std::size_t i = 0; i < shares.size(); ++i) {
    metrics["accuracy/" + attributes_[i].name] = shares[i];
  }
  metrics["accuracy"] = mean_of(shares);
  return metrics;
}

}  // namespace fastwan::training
