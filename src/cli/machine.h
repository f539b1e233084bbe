// What this machine has, asked without torch.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fastwan::cli {

// The widest vector instructions, spelled as FASTWAN_CPU_ISA and the metadata spell them: "avx512".
std::string cpu_instruction_set();

// As the kernel calls the processor, "AMD EPYC 9654 96-Core Processor"; empty where it does not
// say.
std::string cpu_name();

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

// Operations a second that a GPU's data sheet promises: dense, bf16 with fp32 sums. nullopt for one
// that is not in the table, and for a slice of one.
std::optional<double> promised_rate(std::string_view gpu_name);

}  // namespace fastwan::cli
