#include "cli/tensor_library.h"

#include <cstdlib>

#include <dlfcn.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::cli {

TensorLibrary::TensorLibrary(const Program& program) {
  const Path beside = program.executable.parent_path().parent_path() / "lib" / "libfastwan.so";
  // OpenMP reads this once, when it is loaded. Threads that spin while they wait take the cores
  // from whoever else computes: a tiny video took 4.9 s instead of 1.2 s beside two compilers.
  ::setenv("OMP_WAIT_POLICY", "passive", /*overwrite=*/0);
  // RTLD_GLOBAL: exceptions and torch's operator registry are shared with libraries that are opened
  // later.
  handle_ = ::dlopen(beside.c_str(), RTLD_NOW | RTLD_GLOBAL);
  if (handle_ == nullptr) {
    throw IoError(
        Code::kMissingLibrary,
        str("cannot open ", ::dlerror(),
            ". Is torch 2.11.0 installed? `make setup build` puts it beside the program"));
  }
}

// The library stays open: torch does not survive being unloaded.
TensorLibrary::~TensorLibrary() = default;

void* TensorLibrary::symbol(const char* name) const {
  void* found = ::dlsym(handle_, name);
  if (found == nullptr) {
    throw IoError(Code::kMissingLibrary,
                  str("libfastwan.so has no ", name,
                      "; it is of another version than this program. Build again"));
  }
  return found;
}

GenerateReport TensorLibrary::generate(const GenerateCall& call) const {
  return reinterpret_cast<GenerateFunction>(symbol("fastwan_generate"))(call);
}

config::TrainReport TensorLibrary::train(const TrainCall& call) const {
  return reinterpret_cast<TrainFunction>(symbol("fastwan_train"))(call);
}

void TensorLibrary::consolidate(const ConsolidateCall& call) const {
  reinterpret_cast<ConsolidateFunction>(symbol("fastwan_consolidate"))(call);
}

std::vector<std::string> TensorLibrary::diff_checkpoints(const Path& a, const Path& b) const {
  return reinterpret_cast<DiffFunction>(symbol("fastwan_diff_checkpoints"))(a, b);
}

Json TensorLibrary::evaluate(const EvalCall& call) const {
  return reinterpret_cast<EvaluateFunction>(symbol("fastwan_evaluate"))(call);
}

Json TensorLibrary::run_experiment(const ExperimentCall& call) const {
  return reinterpret_cast<ExperimentFunction>(symbol("fastwan_experiment"))(call);
}

RowsReport TensorLibrary::preprocess(const PreprocessCall& call) const {
  return reinterpret_cast<PreprocessFunction>(symbol("fastwan_preprocess"))(call);
}

RowsReport TensorLibrary::synthesize(const SynthCall& call) const {
  return reinterpret_cast<SynthFunction>(symbol("fastwan_synth"))(call);
}

void TensorLibrary::decode_rows(const DecodeRowsCall& call) const {
  reinterpret_cast<DecodeRowsFunction>(symbol("fastwan_decode_rows"))(call);
}

std::string TensorLibrary::probe() const {
  return reinterpret_cast<ProbeFunction>(symbol("fastwan_probe"))();
}

}  // namespace fastwan::cli
