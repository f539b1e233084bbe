// `fastwan ckpt`: checkpoints of a training run as model folders, and what tells two apart.
#include <cstdio>

#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/hub_cache.h"
#include "cli/options.h"
#include "cli/tensor_library.h"

namespace fastwan::cli {
namespace {

constexpr int kWords = 100;  // more than fit, so that the message is ours

int consolidate(const Program& program, const std::vector<std::string>& words) {
  CLI::App app("A checkpoint's weights as a Diffusers folder", "ckpt consolidate");
  ConsolidateCall call;
  std::vector<std::string> folders;
  std::string to, base;
  app.add_option("checkpoint", folders, "folder checkpoint-<step>")->expected(0, kWords);
  app.add_option("-o,--output", to, "folder to write");
  app.add_option("--base", base, "Diffusers folder of the other parts; default: as in the recipe");
  app.add_option("--role", call.role, "student (default) or critic");
  app.add_option("--dtype", call.dtype, "fp32 or bf16; default: as the recipe exports");
  app.add_flag("--raw", call.raw, "the weights themselves, not their average");
  app.add_flag("--link", call.links, "link the other parts instead of copying them");
  if (!parse(app, words)) {
    return 0;
  }
  if (folders.size() != 1 || to.empty()) {
    throw InvalidInput(Code::kUsage, "wanted: fastwan ckpt consolidate CHECKPOINT -o FOLDER");
  }
  if (!call.dtype.empty() && call.dtype != "fp32" && call.dtype != "bf16") {
    throw InvalidInput(Code::kBadValue,
                       str("--dtype must be fp32 or bf16, got ", escape_control(call.dtype)));
  }
  call.checkpoint = folders[0];
  call.to = to;
  call.base = base.empty() ? Path() : find_model(base, "", "--base");
  call.locate = [](const std::string& model, const std::string& commit) {
    return find_model(model, commit, "the recipe's model");
  };
  TensorLibrary(program).consolidate(call);
  std::fputs((to + "\n").c_str(), stdout);
  return 0;
}

// As diff(1): 0 the same, 1 different.
int diff(const Program& program, const std::vector<std::string>& words) {
  CLI::App app("Where two checkpoints differ: first element of each tensor", "ckpt diff");
  std::vector<std::string> folders;
  app.add_option("checkpoints", folders, "two folders checkpoint-<step>")->expected(0, kWords);
  if (!parse(app, words)) {
    return 0;
  }
  if (folders.size() != 2) {
    throw InvalidInput(Code::kUsage, "wanted: fastwan ckpt diff CHECKPOINT CHECKPOINT");
  }
  const std::vector<std::string> lines =
      TensorLibrary(program).diff_checkpoints(folders[0], folders[1]);
  for (const std::string& line : lines) {
    std::fputs((line + "\n").c_str(), stdout);
  }
  return lines.empty() ? 0 : 1;
}

constexpr const char* kHelp =
    "Checkpoints of a training run\n\n"
    "Usage: fastwan ckpt COMMAND [OPTIONS]\n\n"
    "Commands:\n"
    "  consolidate CHECKPOINT -o FOLDER   a checkpoint's weights as a Diffusers folder\n"
    "  diff CHECKPOINT CHECKPOINT         where two checkpoints differ\n\n"
    "fastwan ckpt COMMAND --help tells more\n";

}  // namespace

int run_ckpt(const Program& program, const std::vector<std::string>& words) {
  const std::vector<std::string> rest(words.begin() + (words.empty() ? 0 : 1), words.end());
  if (!words.empty() && (words[0] == "--help" || words[0] == "-h")) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  if (!words.empty() && words[0] == "consolidate") {
    return consolidate(program, rest);
  }
  if (!words.empty() && words[0] == "diff") {
    return diff(program, rest);
  }
  throw InvalidInput(
      Code::kUsage,
      "ckpt knows `consolidate CHECKPOINT -o FOLDER` and `diff A B`; each has --help");
}

}  // namespace fastwan::cli
