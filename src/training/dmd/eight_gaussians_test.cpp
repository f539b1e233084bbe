// From nothing to a three-step student on eight Gaussians: teacher by Finetune, student by Distill,
// the classes that train Wan, around a small perceptron.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numbers>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cdist.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/square.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "diffusion/sample_noise.h"
#include "training/dmd/distill.h"
#include "training/dmd/eight_gaussians_threshold.h"
#include "training/finetune.h"

namespace fastwan::training::dmd {
namespace {

constexpr int64_t kWidth = 96, kWaves = 4;
constexpr uint64_t kSeed = 8;

std::vector<int64_t> rows_from(int64_t first, std::size_t count) {
  std::vector<int64_t> slots(count);
  std::iota(slots.begin(), slots.end(), first);
  return slots;
}

// Three hidden layers over (x, waves of t), with its own AdamW (no weight decay).
class Perceptron {
 public:
  explicit Perceptron(int64_t stream_step) {
    const std::vector<int64_t> widths = {2 + 4 * kWaves, kWidth, kWidth, kWidth, 2};
    for (std::size_t i = 0; i + 1 < widths.size(); ++i) {
      const at::Tensor noise =
          diffusion::noise_like(at::zeros({1, widths[i + 1], widths[i]}),
                                {.seed = kSeed, .stream = Stream::kInit, .step = stream_step},
                                rows_from(static_cast<int64_t>(i), 1))[0];
      add(noise / std::sqrt(static_cast<double>(widths[i])));
      add(at::zeros({widths[i + 1]}));
    }
  }
  Perceptron(const Perceptron& other) {
    for (const at::Tensor& value : other.values_) {
      add(value.detach().clone());
    }
  }
  Perceptron& operator=(const Perceptron&) = delete;

  Velocity velocity() const {
    return [this](const at::Tensor& x, const at::Tensor& timestep, const at::Tensor&) {
      const at::Tensor angle = timestep.unsqueeze(1) * waves_;  // [B, waves]
      at::Tensor h =
          at::cat({x, at::sin(angle), at::cos(angle), at::sin(3 * angle), at::cos(3 * angle)}, 1);
      for (std::size_t i = 0; i < values_.size(); i += 2) {
        h = at::linear(i == 0 ? h : at::silu(h), values_[i], values_[i + 1]);
      }
      return h;  // [B, 2]
    };
  }

  void step(double rate, double beta1) {
    const at::NoGradGuard no_grad;
    ++updates_;
    const double c1 = 1 - std::pow(beta1, updates_), c2 = 1 - std::pow(0.999, updates_);
    for (std::size_t i = 0; i < values_.size(); ++i) {
      const at::Tensor g = values_[i].grad();
      m_[i].mul_(beta1).add_(g, 1 - beta1);
      v_[i].mul_(0.999).addcmul_(g, g, 1 - 0.999);
      values_[i].addcdiv_(m_[i], (v_[i] / c2).sqrt_().add_(1e-8), -rate / c1);
      values_[i].mutable_grad() = at::Tensor();
    }
  }
  // this <- d this + (1 - d) other
  void follow(const Perceptron& other, double decay) {
    const at::NoGradGuard no_grad;
    for (std::size_t i = 0; i < values_.size(); ++i) {
      values_[i].mul_(decay).add_(other.values_[i], 1 - decay);
    }
  }

 private:
  void add(const at::Tensor& value) {
    values_.push_back(value.detach().set_requires_grad(true));
    m_.push_back(at::zeros_like(value));
    v_.push_back(at::zeros_like(value));
  }
  std::vector<at::Tensor> values_, m_, v_;
  int64_t updates_ = 0;
  const at::Tensor waves_ =
      at::tensor({1.0, 2.0, 4.0, 8.0}, at::kFloat) * (std::numbers::pi / 1000.0);
};

// Slot j of draw `draw`: a mode by a uniform number, a Gaussian around it.
at::Tensor content(int64_t draw, const std::vector<int64_t>& slots) {
  std::vector<double> angles;
  for (const int64_t slot : slots) {
    const double u = Philox(kSeed, Stream::kData, draw, slot, /*draw=*/1).uniform(0);
    angles.push_back(std::floor(8 * u) * std::numbers::pi / 4);
  }
  const at::Tensor angle = at::tensor(angles, at::kFloat);
  const at::Tensor centre = 2 * at::stack({at::cos(angle), at::sin(angle)}, 1);
  return centre + 0.15 * diffusion::noise_like(
                             centre, {.seed = kSeed, .stream = Stream::kData, .step = draw}, slots);
}

MicroBatch batch_of(int64_t step) {
  constexpr std::size_t kBatch = 256;
  std::vector<int64_t> slots = rows_from(0, kBatch);
  return {.latents = content(step, slots), .text = at::zeros({kBatch, 1, 1}), .slots = slots};
}

double cosine(int64_t step, int64_t total) {
  return 0.5 *
         (1 + std::cos(std::numbers::pi * static_cast<double>(step) / static_cast<double>(total)));
}

// Three steps with fresh noise: what inference does.
at::Tensor three_steps(const Perceptron& net, const std::vector<double>& timesteps, std::size_t n) {
  const at::NoGradGuard no_grad;
  const SampleKey key{.seed = 99, .step = 0, .streams = student_streams()};
  const std::vector<int64_t> slots = rows_from(0, n), last(n, 2);
  const at::Tensor like = at::zeros({static_cast<int64_t>(n), 2}),
                   text = at::zeros({static_cast<int64_t>(n), 1, 1});
  return student_sample(net.velocity(),
                        rolled_out(net.velocity(), like, text, timesteps, last, key, slots), text);
}

// Fifty Euler steps.
at::Tensor fifty_steps(const Perceptron& net, std::size_t n) {
  const at::NoGradGuard no_grad;
  const auto rows = static_cast<int64_t>(n);
  at::Tensor x = diffusion::noise_like(at::zeros({rows, 2}), {.seed = 98}, rows_from(0, n));
  for (int i = 0; i < 50; ++i) {
    const double sigma = 1 - i / 50.0;
    x = x - (1 / 50.0) * net.velocity()(x, at::full({rows}, 1000 * sigma), {});
  }
  return x;
}

double mean_kernel(const at::Tensor& a, const at::Tensor& b) {
  return at::exp(at::square(at::cdist(a, b)) / (-2 * 0.5 * 0.5)).mean().item<double>();
}
// Unbiased: the kernel of a sample with itself, 1, is left out.
double mmd_squared(const at::Tensor& a, const at::Tensor& b) {
  const auto n = static_cast<double>(a.size(0));
  const auto within = [n](const at::Tensor& x) { return (mean_kernel(x, x) * n - 1) / (n - 1); };
  return within(a) + within(b) - 2 * mean_kernel(a, b);
}

// About 40 s of one core. Tried: a student update every 5 iterations at a rate of 5e-4 reaches
// 0.0102 and misses the bar; every 2 at 1e-3 reaches 0.0039.
TEST(EightGaussians, AThreeStepStudentReachesTheBarThatTheUntrainedSamplerMisses) {
  constexpr std::size_t kSamples = 4096;
  constexpr int64_t kTeacherSteps = 3000, kDistillSteps = 2000;
  const at::Tensor truth = content(1 << 20, rows_from(0, kSamples));

  Perceptron teacher(0);
  Finetune pretraining({.velocity = teacher.velocity()}, {.seed = kSeed});
  for (int64_t step = 1; step <= kTeacherSteps; ++step) {
    pretraining.accumulate(Finetune::kStudent, step, batch_of(step), 1.0);
    teacher.step(2e-3 * cosine(step, kTeacherSteps), 0.9);
  }

  Perceptron student(teacher), critic(teacher), average(teacher);
  const std::vector<double> timesteps = {1000, 757, 522};
  Distill distillation({.student = {.velocity = student.velocity()},
                        .critic = {.velocity = critic.velocity()},
                        .teacher = teacher.velocity()},
                       {.seed = kSeed,
                        .timesteps = timesteps,
                        .rollout = Rollout::kSimulate,
                        .steps = {.block = 64},
                        .score = {.shift = 1},
                        .guidance_scale = 1,
                        .update_interval = 2,
                        .critic_warmup = 200});
  for (int64_t step = 1; step <= kDistillSteps; ++step) {
    const MicroBatch batch = batch_of(step);
    for (const std::string& name : distillation.updates(step)) {
      distillation.accumulate(name, step, batch, 1.0);
      if (name == Distill::kStudent) {
        student.step(1e-3 * cosine(step, kDistillSteps), 0.0);
        average.follow(student, 0.98);
      } else {
        critic.step(1e-3 * cosine(step, kDistillSteps), 0.0);
      }
    }
  }

  const double floor = mmd_squared(content((1 << 20) + 1, rows_from(0, kSamples)), truth);
  const double fifty = mmd_squared(fifty_steps(teacher, kSamples), truth);
  const double untrained = mmd_squared(three_steps(teacher, timesteps, kSamples), truth);
  const double trained = mmd_squared(three_steps(average, timesteps, kSamples), truth);
  RecordProperty("floor", std::to_string(floor));
  RecordProperty("teacher_50_steps", std::to_string(fifty));
  RecordProperty("teacher_3_steps", std::to_string(untrained));
  RecordProperty("student_3_steps", std::to_string(trained));
  EXPECT_LT(fifty, kEightGaussiansBar) << "the teacher itself must know the data";
  EXPECT_LT(trained, kEightGaussiansBar);
  EXPECT_GT(untrained, 2 * kEightGaussiansBar) << "the bar must be out of reach without training";
  std::printf(
      "MMD^2: data %.5f, teacher in 50 steps %.5f, in 3 steps %.5f; student in 3 steps %.5f\n",
      floor, fifty, untrained, trained);
}

}  // namespace
}  // namespace fastwan::training::dmd
