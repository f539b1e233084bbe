#include "training/step_profile.h"

#include <memory>
#include <set>
#include <system_error>

#include <torch/csrc/autograd/profiler_kineto.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::training {
namespace {

namespace profiler = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

void start_recording(bool with_gpu) {
  const ProfilerConfig config(ProfilerState::KINETO, /*report_input_shapes=*/true);
  std::set<ActivityType> activities = {ActivityType::CPU};
  if (with_gpu) {
    activities.insert(ActivityType::CUDA);
  }
  profiler::prepareProfiler(config, activities);
  profiler::enableProfiler(config, activities);
}

}  // namespace

StepProfile::~StepProfile() {
  if (is_recording_) {  // an iteration threw
    profiler::disableProfiler();
  }
}

void StepProfile::before_step() {
  if (!options_.file.empty() && done_ == options_.skipped) {
    start_recording(options_.with_gpu);
    is_recording_ = true;
  }
}

bool StepProfile::after_step() {
  ++done_;
  if (!is_recording_ || done_ < options_.skipped + options_.steps) {
    return false;
  }
  is_recording_ = false;
  const std::unique_ptr<profiler::ProfilerResult> result = profiler::disableProfiler();
  result->save(options_.file.string());
  // save() only logs what goes wrong.
  std::error_code error;
  if (std::filesystem::file_size(options_.file, error) == 0 || error) {
    throw IoError(Code::kWriteFailed, str("the profile ", options_.file.string(),
                                          " could not be written; choose another --profile"));
  }
  return true;
}

}  // namespace fastwan::training
