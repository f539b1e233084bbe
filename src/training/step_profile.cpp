#include "training/step_profile.h"

#include <algorithm>
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

std::string counted(int64_t iterations) {
  return str(iterations, iterations == 1 ? " iteration" : " iterations");
}

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

StepProfile::StepProfile(ProfileOptions options, int64_t left)
    : options_(std::move(options)), left_(left) {
  if (left_ < options_.skipped + options_.steps) {
    is_shortened_ = true;
    options_.steps = std::min(options_.steps, left_);
    options_.skipped = left_ - options_.steps;
  }
}

StepProfile::~StepProfile() {
  if (is_recording_) {  // an iteration threw
    profiler::disableProfiler();
  }
}

std::string StepProfile::warning() const {
  if (options_.file.empty() || !is_shortened_) {
    return "";
  }
  if (left_ == 0) {
    return str("no profile: the run has no iteration left. Start a fresh one for ",
               options_.file.string());
  }
  return str("the run has ", counted(left_), " left: the profile is of the last ", options_.steps,
             ", after only ", options_.skipped, " that warm up");
}

void StepProfile::before_step() {
  if (!options_.file.empty() && done_ == options_.skipped) {
    start_recording(options_.with_gpu);
    is_recording_ = true;
  }
}

std::string StepProfile::after_step(bool is_last) {
  ++done_;
  if (options_.file.empty() || (!is_recording_ && done_ > options_.skipped)) {
    return "";  // none is wanted, or it is written
  }
  if (is_recording_ && (is_last || done_ == options_.skipped + options_.steps)) {
    save();
    return str("profile of ", counted(done_ - options_.skipped), " in ", options_.file.string());
  }
  return is_last ? str("no profile: the run stopped after ", counted(done_), ", it begins after ",
                       options_.skipped)
                 : "";
}

void StepProfile::save() {
  is_recording_ = false;
  const std::unique_ptr<profiler::ProfilerResult> result = profiler::disableProfiler();
  result->save(options_.file.string());
  // save() only logs what goes wrong.
  std::error_code error;
  if (std::filesystem::file_size(options_.file, error) == 0 || error) {
    throw IoError(Code::kWriteFailed, str("the profile ", options_.file.string(),
                                          " could not be written; choose another --profile"));
  }
}

}  // namespace fastwan::training
