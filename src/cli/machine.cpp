#include "cli/machine.h"

#include <array>

#include <dlfcn.h>

namespace fastwan::cli {
namespace {

template <class Function>
Function driver_function(void* driver, const char* name) {
  return reinterpret_cast<Function>(::dlsym(driver, name));
}

}  // namespace

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
