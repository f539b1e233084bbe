// Where the decoder of the Wan VAE spends its time on a GPU: seconds a video with and without
// cuDNN's search for algorithms, then the GPU's kernels by their share of one decode. Random
// weights, bf16.
//
// usage: fastwan-vae-profile [HEIGHT WIDTH FRAMES]     default 448 832 61
#include <algorithm>
#include <chrono>
#include <cmath>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randn.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>
#include <torch/csrc/autograd/profiler_kineto.h>

#include "base/text.h"
#include "models/wan_vae.h"

namespace fastwan {
namespace {

namespace profiler = torch::profiler::impl;

struct Size {
  int64_t height, width, pixel_frames;
};

void synchronize() {
  const auto* gpu = c10::impl::getDeviceGuardImpl(at::kCUDA);
  gpu->synchronizeDevice(0);
}

// As published, with normal weights of variance 1 / fan-in.
std::shared_ptr<models::WanVae> make_vae() {
  const auto vae = std::make_shared<models::WanVae>(
      layout::WanVaeConfig{},
      models::VaeOptions{
          .dtype = at::kBFloat16, .device = at::kCUDA, .parts = models::VaeParts::kDecoder});
  for (at::Tensor& parameter : vae->parameters()) {
    const double fan_in =
        parameter.dim() < 2 ? 1.0 : static_cast<double>(parameter.numel() / parameter.size(0));
    parameter.normal_(0.0, 1.0 / std::sqrt(fan_in));
  }
  return vae;
}

// Seconds of each of three decodes; the first chooses algorithms and takes memory.
std::vector<double> time_decodes(models::WanVae& vae, const at::Tensor& latents) {
  std::vector<double> seconds;
  for (int i = 0; i < 3; ++i) {
    synchronize();
    const auto start = std::chrono::steady_clock::now();
    vae.decode(latents, [](const at::Tensor&) {});
    synchronize();
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return seconds;
}

struct Share {
  double ms = 0;
  int64_t calls = 0;
};

// One decode under torch's profiler: kernels by name.
std::map<std::string, Share> profile(models::WanVae& vae, const at::Tensor& latents) {
  const profiler::ProfilerConfig config(profiler::ProfilerState::KINETO,
                                        /*report_input_shapes=*/false);
  const std::set<profiler::ActivityType> activities{profiler::ActivityType::CPU,
                                                    profiler::ActivityType::CUDA};
  torch::autograd::profiler::prepareProfiler(config, activities);
  torch::autograd::profiler::enableProfiler(config, activities);
  vae.decode(latents, [](const at::Tensor&) {});
  synchronize();
  const auto result = torch::autograd::profiler::disableProfiler();
  std::map<std::string, Share> shares;
  for (const auto& event : result->events()) {
    if (event.deviceType() == at::kCUDA) {
      Share& share = shares[event.name()];
      share.ms += static_cast<double>(event.durationNs()) * 1e-6;
      share.calls += 1;
    }
  }
  return shares;
}

void print(const std::map<std::string, Share>& shares) {
  std::vector<std::pair<std::string, Share>> rows(shares.begin(), shares.end());
  std::sort(rows.begin(), rows.end(),
            [](const auto& a, const auto& b) { return a.second.ms > b.second.ms; });
  double total = 0;
  for (const auto& [name, share] : rows) {
    total += share.ms;
  }
  std::cout << str("GPU kernels: ", total, " ms in all\n");
  for (std::size_t i = 0; i < rows.size() && i < 40; ++i) {
    const auto& [name, share] = rows[i];
    std::cout << str("  ", share.ms, " ms  ", share.calls, " x  ", name.substr(0, 150), "\n");
  }
}

int run(const Size& size) {
  for (const char* library : {"libcuda.so.1", "libtorch_cuda.so"}) {
    if (::dlopen(library, RTLD_NOW | RTLD_GLOBAL) == nullptr) {
      std::cerr << "error[no_gpu]: " << ::dlerror() << '\n';
      return 3;
    }
  }
  const at::NoGradGuard no_grad;
  const auto vae = make_vae();
  const at::Tensor latents =
      at::randn({1, 16, (size.pixel_frames - 1) / 4 + 1, size.height / 8, size.width / 8},
                at::TensorOptions(at::kBFloat16).device(at::kCUDA));
  for (const bool searches : {false, true}) {
    at::globalContext().setBenchmarkCuDNN(searches);
    const std::vector<double> seconds = time_decodes(*vae, latents);
    std::cout << str(size.height, "x", size.width, "x", size.pixel_frames, ", cuDNN ",
                     searches ? "searches: " : "chooses by rule: ");
    for (const double s : seconds) {
      std::cout << s << " s ";
    }
    std::cout << std::endl;
    print(profile(*vae, latents));
  }
  return 0;
}

}  // namespace
}  // namespace fastwan

int main(int argc, char** argv) {
  fastwan::Size size{.height = 448, .width = 832, .pixel_frames = 61};
  if (argc == 4) {
    size = {.height = std::stoll(argv[1]),
            .width = std::stoll(argv[2]),
            .pixel_frames = std::stoll(argv[3])};
  }
  return fastwan::run(size);
}
