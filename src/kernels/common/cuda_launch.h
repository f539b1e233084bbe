// What a launcher calls after <<<>>>.
#pragma once

namespace fastwan::kernels::cuda {

// Throws DeviceError that names the operation if its launch failed. The launch error stays with the
// thread that caused it; nothing is synchronised.
void check_launch(const char* operation);

}  // namespace fastwan::kernels::cuda
