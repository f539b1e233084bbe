#include "pipelines/device.h"

#include <optional>

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <dlfcn.h>

#include "base/check.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"

namespace fastwan::pipelines {
namespace {

// Why no GPU can be used; nothing when torch's GPU library is open.
std::optional<std::string> open_gpu_library() {
  if (c10::impl::hasDeviceGuardImpl(at::kCUDA)) {
    return std::nullopt;
  }
  if (::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) == nullptr) {
    return "there is no NVIDIA driver (libcuda.so.1) on this machine";
  }
  if (::dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    const char* reason = ::dlerror();
    return str("torch's GPU library does not open: ", escape_control(reason),
               ". `make setup CUDA=1` installs what it needs");
  }
  if (!c10::impl::hasDeviceGuardImpl(at::kCUDA)) {
    return "torch's GPU library opened and registered no device";
  }
  return std::nullopt;
}

// VSA's GPU kernels; without them its plain version gives the same result, slowly.
void open_gpu_operators() {
  if (::dlopen("libfastwan_ops_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    const char* reason = ::dlerror();
    log::warn(str("sparse attention will be slow: its GPU kernels do not open (",
                  escape_control(reason), ")"));
  }
}

int64_t count_gpus() {
  return c10::impl::hasDeviceGuardImpl(at::kCUDA)
             ? c10::impl::getDeviceGuardImpl(at::kCUDA)->deviceCount()
             : 0;
}

at::Device on_gpu(int64_t index) {
  open_gpu_operators();
  // fp32 shall mean fp32: by default cuDNN's convolutions keep 10 bits of it (TF32).
  at::globalContext().setAllowTF32CuDNN(false);
  return {at::kCUDA, static_cast<c10::DeviceIndex>(index)};
}

}  // namespace

int64_t num_gpus() {
  return open_gpu_library() ? 0 : count_gpus();
}

at::Device resolve_device(const std::string& wanted) {
  if (wanted == "cpu") {
    return at::kCPU;
  }
  if (wanted == "auto") {
    return num_gpus() > 0 ? on_gpu(0) : at::Device(at::kCPU);
  }
  int64_t index = 0;
  if (wanted != "cuda") {
    const std::optional<int64_t> number =
        wanted.starts_with("cuda:") ? parse_int(wanted.substr(5)) : std::nullopt;
    if (!number || *number < 0) {
      throw InvalidInput(Code::kBadValue, str("--device must be auto, cpu, cuda or cuda:i, got ",
                                              escape_control(wanted)));
    }
    index = *number;
  }
  const std::optional<std::string> reason = open_gpu_library();
  const int64_t count = reason ? 0 : count_gpus();
  if (index >= count) {
    throw DeviceError(
        Code::kNoGpu,
        str("--device ", wanted, ": ",
            reason.value_or(count == 0 ? "the driver shows no GPU"
                                       : str("this machine has ", count, ", numbered from 0")),
            ". --device cpu needs none"));
  }
  return on_gpu(index);
}

int64_t free_memory_bytes(at::Device device) {
  if (device.is_cpu()) {
    return available_memory_bytes();
  }
  c10::DeviceAllocator* allocator = c10::getDeviceAllocator(device.type());
  return static_cast<int64_t>(allocator->getMemoryInfo(device.index()).first);
}

}  // namespace fastwan::pipelines
