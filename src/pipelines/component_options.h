// Settings to what Components needs: device, types, attention, where weights wait.
#pragma once

#include <functional>
#include <string>

#include "pipelines/components.h"

namespace fastwan::pipelines {

// Also sets the number of threads that torch uses. DeviceError no_gpu; what is dropped is said.
ComponentOptions component_options(const config::Generate& settings,
                                   const layout::ModelFolder& model,
                                   const std::function<void(const std::string&)>& on_note);

}  // namespace fastwan::pipelines
