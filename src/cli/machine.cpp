#include "cli/machine.h"

#include <array>
#include <cctype>
#include <fstream>

#include <dlfcn.h>

#include "base/text.h"

namespace fastwan::cli {
namespace {

template <class Function>
Function driver_function(void* driver, const char* name) {
  return reinterpret_cast<Function>(::dlsym(driver, name));
}

// NVIDIA's data sheets; where they give a figure with 2:4 sparsity, half of it. The first that
// matches counts: variants stand before the name they extend.
struct Rated {
  std::string_view name;
  double rate;
};
constexpr std::array<Rated, 16> kRated = {{{"B200", 2250e12},
                                           {"GH200", 989.5e12},
                                           {"H200 NVL", 835.5e12},
                                           {"H200", 989.5e12},
                                           {"H100 NVL", 835.5e12},
                                           {"H100 PCIe", 756.5e12},
                                           {"H100", 989.5e12},
                                           {"H800 PCIe", 756.5e12},
                                           {"H800", 989.5e12},
                                           {"A100", 312e12},
                                           {"A800", 312e12},
                                           {"A40", 149.7e12},
                                           {"A10", 125e12},
                                           {"L40S", 362e12},
                                           {"L40", 181e12},
                                           {"L4", 121e12}}};

bool has_word(std::string_view text, std::string_view word) {
  const auto is_part = [&text](std::size_t at) {
    return at < text.size() && std::isalnum(static_cast<unsigned char>(text[at])) != 0;
  };
  for (std::size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1)) {
    if ((at == 0 || !is_part(at - 1)) && !is_part(at + word.size())) {
      return true;
    }
  }
  return false;
}

}  // namespace

std::optional<double> promised_rate(std::string_view gpu_name) {
  if (has_word(gpu_name, "MIG")) {
    return std::nullopt;
  }
  for (const Rated& gpu : kRated) {
    if (has_word(gpu_name, gpu.name)) {
      return gpu.rate;
    }
  }
  return std::nullopt;
}

std::string cpu_instruction_set() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    return "avx512";
  }
  return __builtin_cpu_supports("avx2") ? "avx2" : "sse2";
#else
  return "neon";
#endif
}

std::string cpu_name() {
  std::ifstream facts("/proc/cpuinfo");
  constexpr std::string_view kKey = "model name";
  for (std::string line; std::getline(facts, line);) {
    if (const std::size_t colon = line.find(':');
        line.starts_with(kKey) && colon != std::string::npos) {
      return std::string(trim(std::string_view(line).substr(colon + 1)));
    }
  }
  return "";
}

GpuSurvey survey_gpus() {
  GpuSurvey survey;
  void* driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) {
    return survey;
  }
  survey.has_driver = true;
  const auto init = driver_function<int (*)(unsigned)>(driver, "cuInit");
  const auto count = driver_function<int (*)(int*)>(driver, "cuDeviceGetCount");
  const auto name = driver_function<int (*)(char*, int, int)>(driver, "cuDeviceGetName");
  const auto memory = driver_function<int (*)(std::size_t*, int)>(driver, "cuDeviceTotalMem_v2");
  int devices = 0;
  if (init == nullptr || count == nullptr || name == nullptr || memory == nullptr || init(0) != 0 ||
      count(&devices) != 0) {
    return survey;
  }
  for (int device = 0; device < devices; ++device) {
    std::array<char, 128> text{};
    std::size_t bytes = 0;
    name(text.data(), static_cast<int>(text.size()), device);
    memory(&bytes, device);
    survey.gpus.push_back({text.data(), static_cast<int64_t>(bytes)});
  }
  return survey;
}

}  // namespace fastwan::cli
