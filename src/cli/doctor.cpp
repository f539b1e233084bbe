#include <cstdio>
#include <filesystem>
#include <thread>

#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/hub_cache.h"
#include "cli/machine.h"
#include "cli/options.h"
#include "cli/table.h"
#include "cli/tensor_library.h"
#include "cli/version.h"
#include "io/media.h"

namespace fastwan::cli {
namespace {

struct Finding {
  std::string name;
  enum class State { kGood, kNote, kBad } state = State::kGood;
  std::string detail;
  std::string remedy;
};

Finding check_memory() {
  const auto bytes = static_cast<double>(available_memory_bytes());
  Finding finding{"memory", Finding::State::kGood, format_bytes(bytes) + " available", ""};
  if (bytes < 8e9) {
    finding.state = Finding::State::kNote;
    finding.remedy =
        "a 1.3B model with its text encoder in bf16 wants 12 GB on the CPU; --offload stage keeps "
        "one part at a time";
  }
  return finding;
}

Finding check_disk() {
  std::error_code error;
  const auto space = std::filesystem::space(".", error);
  if (error) {
    return {"disk", Finding::State::kBad, "cannot ask: " + error.message(),
            "change to a folder that exists"};
  }
  Finding finding{"disk", Finding::State::kGood,
                  format_bytes(static_cast<double>(space.available)) + " free here", ""};
  if (space.available < 1'000'000'000) {
    finding.state = Finding::State::kNote;
    finding.remedy = "free some space: a model folder has 10 to 70 GB, a video some MB";
  }
  return finding;
}

Finding check_ffmpeg(const Program& program) {
  try {
    const io::Ffmpeg ffmpeg = io::open_ffmpeg(venvs_of(program));
    return {"ffmpeg", Finding::State::kGood, str(ffmpeg.version, " at ", ffmpeg.program.string()),
            ""};
  } catch (const Failure& failure) {
    return {"ffmpeg", Finding::State::kBad, failure.what(),
            "without it frames leave as PNG or safetensors, and clips cannot be read"};
  }
}

Finding check_gpu() {
  const GpuSurvey survey = survey_gpus();
  if (!survey.has_driver) {
    return {"gpu", Finding::State::kNote, "no NVIDIA driver (libcuda.so.1)",
            "the CPU is used; a GPU needs NVIDIA's driver 580 or newer"};
  }
  if (survey.gpus.empty()) {
    return {"gpu", Finding::State::kNote, "a driver but no GPU",
            "the CPU is used; see CUDA_VISIBLE_DEVICES and nvidia-smi"};
  }
  std::string detail;
  for (std::size_t device = 0; device < survey.gpus.size(); ++device) {
    const Gpu& gpu = survey.gpus[device];
    detail += str(device == 0 ? "" : "; ", "cuda:", device, " ", gpu.name, ", ",
                  format_bytes(static_cast<double>(gpu.memory_bytes)));
  }
  return {"gpu", Finding::State::kGood, detail, ""};
}

Finding check_torch(const Program& program) {
  try {
    const TensorLibrary library(program);
    return {"torch", Finding::State::kGood, library.probe(), ""};
  } catch (const Failure& failure) {
    return {"torch", Finding::State::kBad, failure.what(), "make setup build"};
  }
}

Finding check_cpu() {
  return {"cpu", Finding::State::kGood,
          str(std::thread::hardware_concurrency(), " threads, ", cpu_instruction_set()), ""};
}

Finding check_cache() {
  const Path root = hub_cache_root();
  std::error_code error;
  if (!std::filesystem::is_directory(root, error)) {
    return {"hub cache", Finding::State::kNote, root.string() + " is not there yet",
            "-m org/name looks there; a folder path always works"};
  }
  return {"hub cache", Finding::State::kGood, root.string(), ""};
}

const char* word(Finding::State state) {
  switch (state) {
    case Finding::State::kGood:
      return "ok";
    case Finding::State::kNote:
      return "note";
    case Finding::State::kBad:
      return "FAULT";
  }
  return "?";
}

}  // namespace

int run_doctor(const Program& program, const std::vector<std::string>& words) {
  CLI::App app("Checks this machine", "doctor");
  bool json = false;
  app.add_flag("--json", json, "one JSON document");
  if (!parse(app, words)) {
    return 0;
  }
  const std::vector<Finding> findings = {check_cpu(),           check_memory(),       check_disk(),
                                         check_ffmpeg(program), check_torch(program), check_gpu(),
                                         check_cache()};
  Json document = {{"version", kVersion}, {"checks", Json::array()}};
  Table table;
  bool is_sound = true;
  for (const Finding& finding : findings) {
    is_sound = is_sound && finding.state != Finding::State::kBad;
    document["checks"].push_back({{"name", finding.name},
                                  {"state", word(finding.state)},
                                  {"detail", finding.detail},
                                  {"remedy", finding.remedy}});
    table.add({word(finding.state), finding.name, escape_control(finding.detail)});
    if (!finding.remedy.empty()) {
      table.add({"", "", finding.remedy});
    }
  }
  std::fputs((json ? dump_json(document) + "\n" : table.text()).c_str(), stdout);
  return is_sound ? 0 : info(Code::kMissingProgram).exit_status;
}

}  // namespace fastwan::cli
