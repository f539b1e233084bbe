#include "cli/command.h"

namespace fastwan::cli {

std::vector<Path> venvs_of(const Program& program) {
  // A wheel's bin/fastwan lies in the environment itself; build/<preset>/bin/fastwan three folders
  // below the project.
  const Path prefix = program.executable.parent_path().parent_path();
  return {prefix, prefix.parent_path().parent_path() / ".deps" / "venv"};
}

}  // namespace fastwan::cli
