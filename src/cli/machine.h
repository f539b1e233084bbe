// What this machine has, asked without torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace fastwan::cli {

// The widest vector instructions, spelled as FASTWAN_CPU_ISA and the metadata spell them: "avx512".
std::string cpu_instruction_set();

struct Gpu {
  std::string name;
  int64_t memory_bytes = 0;
};
struct GpuSurvey {
  bool has_driver = false;
  std::vector<Gpu> gpus;  // cuda:0 first
};
// Asks NVIDIA's driver library.
GpuSurvey survey_gpus();

}  // namespace fastwan::cli
