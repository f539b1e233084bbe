// The program `fastwan`: torch-free, so that help and inspection answer at once. Commands that need
// tensors open libfastwan.so (tensor_library.h).
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/env.h"
#include "base/files.h"
#include "base/log.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/commit.h"
#include "cli/preprocess.h"
#include "cli/version.h"

namespace fastwan::cli {
namespace {

struct Command {
  const char* name;
  const char* alias;
  const char* about;
  int (*run)(const Program&, const std::vector<std::string>&);
};

constexpr std::array kCommands = {
    Command{"generate", nullptr, "text, or text and a first frame, to video", run_generate},
    Command{"train", nullptr, "trains by a recipe; --dry-run tells its memory and work", run_train},
    Command{"finetune", nullptr, "train --method finetune", run_finetune},
    Command{"distill", nullptr, "train --method distill", run_distill},
    Command{"ckpt", nullptr, "checkpoints of a training run: consolidate, diff", run_ckpt},
    Command{"preprocess", nullptr,
            "clips or prompts to training rows; synth, inspect, verify, decode", run_preprocess},
    Command{"inspect", "metadata", "what is in a model folder, a weights file or a video",
            run_inspect},
    Command{"plan", nullptr, "memory and work of a request, without loading weights", run_plan},
    Command{"presets", nullptr, "defaults per model: list, show NAME", run_presets},
    Command{"eval", nullptr, "videos measured against other videos: list, run", run_eval},
    Command{"doctor", nullptr, "checks this machine and names a remedy for each fault",
            run_doctor}};

void print_help() {
  std::string text = str("fastwan ", kVersion,
                         ": text to video with Wan and FastWan models\n\nUsage: fastwan COMMAND "
                         "[OPTIONS]\n\nCommands:\n");
  for (const Command& command : kCommands) {
    std::string name = command.name;
    name.resize(12, ' ');
    text += str("  ", name, command.about, "\n");
  }
  text +=
      "\nOptions:\n"
      "  --help      this text; fastwan COMMAND --help tells more\n"
      "  --version   version\n"
      "\nFirst video: fastwan generate -m FOLDER -p \"a red kite over the sea\" -o kite.mp4\n";
  std::fputs(text.c_str(), stdout);
}

// Taken out before anything can fail, so that the first error already has the asked form.
ErrorFormat take_error_format(std::vector<std::string>& words) {
  ErrorFormat format = ErrorFormat::kText;
  for (std::size_t i = 0; i < words.size();) {
    std::string value;
    std::size_t count = 0;
    if (words[i].starts_with("--error-format=") || words[i].starts_with("--error_format=")) {
      value = words[i].substr(words[i].find('=') + 1);
      count = 1;
    } else if ((words[i] == "--error-format" || words[i] == "--error_format") &&
               i + 1 < words.size()) {
      value = words[i + 1];
      count = 2;
    } else {
      ++i;
      continue;
    }
    if (value != "text" && value != "json") {
      throw InvalidInput(Code::kBadValue,
                         str("--error-format must be text or json, got ", escape_control(value)));
    }
    format = value == "json" ? ErrorFormat::kJson : ErrorFormat::kText;
    words.erase(words.begin() + static_cast<std::ptrdiff_t>(i),
                words.begin() + static_cast<std::ptrdiff_t>(i + count));
  }
  return format;
}

int run(Program& program, std::vector<std::string> words) {
  program.error_format = take_error_format(words);
  if (const auto level = env("FASTWAN_LOG")) {
    const auto parsed = log::parse_level(*level);
    if (!parsed) {
      throw InvalidInput(Code::kBadValue,
                         str("FASTWAN_LOG must be error, warn, info, debug or trace, got ",
                             escape_control(*level)));
    }
    log::set_level(*parsed);
  }
  for (const std::string& name : unknown_fastwan_variables()) {
    log::warn(str("environment variable ", name, " means nothing to this program"));
  }
  if (words.empty() || words[0] == "--help" || words[0] == "-h" || words[0] == "help") {
    print_help();
    return words.empty() ? info(Code::kUsage).exit_status : 0;
  }
  if (words[0] == "--version" || words[0] == "-V") {
    std::fputs(str("fastwan ", kVersion, " (commit ", source_commit(), ")\n").c_str(), stdout);
    return 0;
  }
  std::vector<std::string> names = {"--help", "--version"};
  for (const Command& command : kCommands) {
    if (words[0] == command.name || (command.alias != nullptr && words[0] == command.alias)) {
      return command.run(program, {words.begin() + 1, words.end()});
    }
    names.emplace_back(command.name);
  }
  const std::optional<std::string> guess = nearest(words[0], names);
  throw InvalidInput(Code::kUsage,
                     str("`", escape_control(words[0]), "` is not a command.",
                         guess ? " Did you mean " + *guess + "?" : " `fastwan --help` lists them"));
}

// The status, once what was printed has arrived: numbers are kept by `> file`, and a full disk must
// not leave half of them behind a success. Who reads a pipe may stop when they like.
int delivered(int status) {
  errno = 0;
  const bool is_whole = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  const int reason = errno == 0 ? EIO : errno;  // an earlier write's is not kept
  struct stat kind {};
  if (is_whole ||
      (::fstat(STDOUT_FILENO, &kind) == 0 && (S_ISFIFO(kind.st_mode) || S_ISSOCK(kind.st_mode)))) {
    return status;
  }
  throw_io_error(reason, "standard output", "write");
}

}  // namespace

}  // namespace fastwan::cli

int main(int argc, char** argv) {
  // A file beyond `ulimit -f` is then an error that we report, not the end of the process.
  std::signal(SIGXFSZ, SIG_IGN);
  fastwan::cli::Program program;
  try {
    program.executable = std::filesystem::read_symlink("/proc/self/exe");
    const std::span<char*> words(argv, static_cast<std::size_t>(argc));
    return fastwan::cli::delivered(fastwan::cli::run(program, {words.begin() + 1, words.end()}));
  } catch (const std::exception& error) {
    return fastwan::cli::report(error, program.error_format);
  }
}
