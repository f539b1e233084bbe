#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <thread>

#include <CLI/CLI.hpp>
#include <dlfcn.h>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/hub_cache.h"
#include "cli/options.h"
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
  std::ifstream meminfo("/proc/meminfo");
  std::string word;
  double kilobytes = 0;
  while (meminfo >> word) {
    if (word == "MemAvailable:") {
      meminfo >> kilobytes;
    }
  }
  const double bytes = kilobytes * 1024;
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
    const io::Ffmpeg ffmpeg = io::find_ffmpeg(roots_of(program));
    return {"ffmpeg", Finding::State::kGood,
            str(ffmpeg.version, " at ", ffmpeg.executable.string()), ""};
  } catch (const Failure& failure) {
    return {
        "ffmpeg", Finding::State::kBad, failure.what(),
        "install ffmpeg or set FASTWAN_FFMPEG_BIN; without it frames leave as PNG or safetensors"};
  }
}

// The driver's own library, asked without torch.
Finding check_gpu() {
  void* driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (driver == nullptr) {
    return {"gpu", Finding::State::kNote, "no NVIDIA driver (libcuda.so.1)",
            "the CPU is used; a GPU needs NVIDIA's driver 580 or newer"};
  }
  const auto init = reinterpret_cast<int (*)(unsigned)>(::dlsym(driver, "cuInit"));
  const auto count = reinterpret_cast<int (*)(int*)>(::dlsym(driver, "cuDeviceGetCount"));
  const auto name = reinterpret_cast<int (*)(char*, int, int)>(::dlsym(driver, "cuDeviceGetName"));
  const auto memory =
      reinterpret_cast<int (*)(std::size_t*, int)>(::dlsym(driver, "cuDeviceTotalMem_v2"));
  int devices = 0;
  if (init == nullptr || count == nullptr || init(0) != 0 || count(&devices) != 0 || devices == 0) {
    return {"gpu", Finding::State::kNote, "a driver but no GPU",
            "the CPU is used; see CUDA_VISIBLE_DEVICES and nvidia-smi"};
  }
  std::string detail;
  for (int device = 0; device < devices; ++device) {
    std::array<char, 128> text{};
    std::size_t bytes = 0;
    name(text.data(), text.size(), device);
    memory(&bytes, device);
    detail += str(device == 0 ? "" : "; ", "cuda:", device, " ", text.data(), ", ",
                  format_bytes(static_cast<double>(bytes)));
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
  bool is_sound = true;
  for (const Finding& finding : findings) {
    is_sound = is_sound && finding.state != Finding::State::kBad;
    document["checks"].push_back({{"name", finding.name},
                                  {"state", word(finding.state)},
                                  {"detail", finding.detail},
                                  {"remedy", finding.remedy}});
    if (!json) {
      std::string name = finding.name;
      name.resize(10, ' ');
      std::string state = word(finding.state);
      state.resize(6, ' ');
      std::fputs(str(state, name, escape_control(finding.detail), "\n").c_str(), stdout);
      if (!finding.remedy.empty()) {
        std::fputs(str("                ", finding.remedy, "\n").c_str(), stdout);
      }
    }
  }
  if (json) {
    std::fputs((dump_json(document) + "\n").c_str(), stdout);
  }
  return is_sound ? 0 : info(Code::kMissingProgram).exit_status;
}

}  // namespace fastwan::cli
