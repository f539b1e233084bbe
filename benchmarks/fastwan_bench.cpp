// Our side of a comparison: sets a case up, then runs one iteration a line of standard input and
// answers with its seconds, the processor's seconds, and the highest resident memory of the process
// so far.
#include <chrono>
#include <cmath>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <sys/resource.h>

#include "base/check.h"
#include "base/text.h"
#include "case.h"
#include "models/wan_dit.h"
#include "models/wan_vae.h"
#include "ops/block_attention.h"
#include "ops/block_select.h"
#include "ops/tiles.h"

namespace fastwan::bench {
namespace {

// Normal weights of variance 1 / fan-in, so that numbers stay ordinary ones.
void randomise(torch::nn::Module& model) {
  for (at::Tensor& parameter : model.parameters()) {
    const double fan_in =
        parameter.dim() < 2 ? 1.0 : static_cast<double>(parameter.numel() / parameter.size(0));
    parameter.normal_(0.0, 1.0 / std::sqrt(fan_in));
  }
}

// One block at the width of the 1.3B models, 4 x 32 x 32 tokens, 512 text rows.
Iteration dit_block() {
  const layout::WanDitConfig config{.num_heads = 12, .head_dim = 128, .ffn_dim = 8960};
  const auto block =
      std::make_shared<models::WanBlock>(config, models::RoundingProfile::fp32(), at::kCPU);
  randomise(*block);
  const int64_t T = 4, H = 32, W = 32;
  const at::Tensor x = at::randn({1, T * H * W, config.width()});
  const at::Tensor text = at::randn({1, 512, config.width()});
  const models::Modulation time(at::randn({1, 6, config.width()}), at::zeros({1}, at::kLong));
  const models::Rope rope = models::make_rope({.head_dim = config.head_dim, .T = T, .H = H, .W = W},
                                              at::kFloat, at::kCPU);
  const ops::AttentionPlan plan = ops::plan_tiles(T, H, W, at::kCPU);
  const auto attention = std::make_shared<ops::FullAttention>();
  return [=] { block->forward(x, text, time, rope, *attention, plan); };
}

// VAE 2.1 as published, 9 frames at 128x224.
Iteration vae_decode() {
  const auto vae = std::make_shared<models::WanVae>(
      layout::WanVaeConfig{}, models::VaeOptions{.parts = models::VaeParts::kDecoder});
  randomise(*vae);
  const at::Tensor latents = at::randn({1, 16, 3, 16, 28});
  return [=] { vae->decode(latents); };
}

// Attention of 12 heads x 128 over 8 x 28 x 52 tokens: no partial tiles, 182 of them.
constexpr ops::Grid kVsaGrid{8, 28, 52};

ops::AttentionInputs vsa_inputs() {
  const auto make = [] { return at::randn({1, ops::volume(kVsaGrid), 12, 128}); };
  return {.q = make(), .k = make(), .v = make(), .gate = make()};
}

Iteration vsa_op(double sparsity) {
  const ops::AttentionInputs in = vsa_inputs();
  const ops::AttentionPlan plan = ops::plan_tiles(kVsaGrid[0], kVsaGrid[1], kVsaGrid[2], at::kCPU);
  const auto attention =
      std::make_shared<ops::VsaAttention>(ops::Sparsity{.value = sparsity}, /*gated=*/true);
  return [=] { attention->forward(in, plan); };
}

Iteration vsa_op_sparse() {
  return vsa_op(0.8);
}

Iteration vsa_op_all_tiles() {
  return vsa_op(0.0);
}

// The fine stage alone, lists from random scores: the worst case for sharing.
Iteration vsa_kernel(at::ScalarType type) {
  ops::AttentionInputs in = vsa_inputs();
  in.q = in.q.to(type), in.k = in.k.to(type), in.v = in.v.to(type);
  const int64_t N = ops::num_tiles(kVsaGrid, ops::kTile);
  const at::Tensor index = ops::block_select(at::randn({1, 12, N, N}), ops::vsa_topk(0.8, N));
  const at::Tensor count = at::full({1, 12, N}, index.size(3), at::kInt);
  const at::Tensor sizes = at::full({N}, ops::kTileSlots, at::kInt);
  return [=] { ops::block_attention(in.q, in.k, in.v, index, count, sizes, sizes); };
}

Iteration vsa_kernel_fp32() {
  return vsa_kernel(at::kFloat);
}

Iteration vsa_kernel_bf16() {
  return vsa_kernel(at::kBFloat16);
}

constexpr Case kModelCases[] = {
    {"dit_block", dit_block},        {"vae_decode", vae_decode},
    {"vsa_kernel", vsa_kernel_fp32}, {"vsa_kernel_bf16", vsa_kernel_bf16},
    {"vsa_op", vsa_op_sparse},       {"vsa_op_all_tiles", vsa_op_all_tiles}};

std::vector<Case> all_cases() {
  std::vector<Case> cases(std::begin(kModelCases), std::end(kModelCases));
  const std::span<const Case> training = training_cases();
  cases.insert(cases.end(), training.begin(), training.end());
  return cases;
}

// User and system time of all threads so far.
double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

int64_t peak_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) {
      const std::string_view digits = trim(std::string_view(line).substr(6));
      return parse_int(digits.substr(0, digits.find(' '))).value_or(0) * 1024;
    }
  }
  return 0;
}

void serve(const Case& chosen) {
  const at::NoGradGuard no_grad;
  const Iteration run = chosen.set_up();
  std::cout << "ready" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    const auto start = std::chrono::steady_clock::now();
    const double cpu_start = cpu_seconds();
    run();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::cout << seconds.count() << ' ' << cpu_seconds() - cpu_start << ' ' << peak_bytes()
              << std::endl;
  }
}

int usage() {
  std::cerr << "fastwan-bench --list\nfastwan-bench --serve CASE [--threads N]\n";
  return 2;
}

int run(std::span<char*> arguments) {
  const std::vector<Case> cases = all_cases();
  std::string name;
  int64_t threads = 2;
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const std::string_view flag = arguments[i];
    const bool has_value = i + 1 < arguments.size();
    if (flag == "--list") {
      for (const Case& known : cases) {
        std::cout << known.name << '\n';
      }
      return 0;
    }
    if (flag == "--serve" && has_value) {
      name = arguments[++i];
    } else if (flag == "--threads" && has_value) {
      threads = parse_int(arguments[++i]).value_or(0);
    } else {
      return usage();
    }
  }
  for (const Case& known : cases) {
    if (name == known.name && threads > 0) {
      at::set_num_threads(static_cast<int>(threads));
      serve(known);
      return 0;
    }
  }
  return usage();
}

}  // namespace
}  // namespace fastwan::bench

int main(int argc, char** argv) {
  return fastwan::bench::run({argv, static_cast<std::size_t>(argc)});
}
