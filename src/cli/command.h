// The subcommands: each takes the words after its name and returns the exit status.
#pragma once

#include <string>
#include <vector>

#include "base/files.h"
#include "cli/errors.h"

namespace fastwan::cli {

struct Program {
  Path executable;  // the running binary, links resolved
  ErrorFormat error_format = ErrorFormat::kText;
};

int run_generate(const Program& program, const std::vector<std::string>& words);
int run_train(const Program& program, const std::vector<std::string>& words);
int run_finetune(const Program& program, const std::vector<std::string>& words);
int run_distill(const Program& program, const std::vector<std::string>& words);
int run_inspect(const Program& program, const std::vector<std::string>& words);
int run_plan(const Program& program, const std::vector<std::string>& words);
int run_ckpt(const Program& program, const std::vector<std::string>& words);
int run_presets(const Program& program, const std::vector<std::string>& words);
int run_eval(const Program& program, const std::vector<std::string>& words);
int run_eval_experiment(const Program& program, const std::vector<std::string>& words);
int run_doctor(const Program& program, const std::vector<std::string>& words);

// Python environments that may hold the imageio-ffmpeg wheel, as io::open_ffmpeg takes them.
std::vector<Path> venvs_of(const Program& program);

}  // namespace fastwan::cli
