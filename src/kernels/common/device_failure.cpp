#include "kernels/common/device_failure.h"

#include "base/check.h"
#include "base/text.h"

namespace fastwan::kernels {

void throw_device_failure(const char* operation, const char* reason) {
  throw DeviceError(Code::kDeviceFault, str(operation, ": the GPU refused the launch: ", reason));
}

}  // namespace fastwan::kernels
