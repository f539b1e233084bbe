// DeviceError thrown from a .cpp: nvcc does not read the headers of base.
#pragma once

namespace fastwan::kernels {

[[noreturn]] void throw_device_failure(const char* operation, const char* reason);

}  // namespace fastwan::kernels
