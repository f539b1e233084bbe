#include "io/media.h"

#include <algorithm>
#include <system_error>

#include <unistd.h>

#include "base/check.h"
#include "base/env.h"
#include "base/text.h"

namespace fastwan::io {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
constexpr int64_t kOpenFiles = 64;
constexpr const char* kHowToGet = "Install ffmpeg, or set FASTWAN_FFMPEG_BIN to the program";

bool is_program(const Path& file) {
  std::error_code error;
  return std::filesystem::is_regular_file(file, error) && ::access(file.c_str(), X_OK) == 0;
}

std::optional<Path> find_on_path(const std::string& name) {
  for (const std::string& folder : split(env("PATH").value_or(""), ':')) {
    const Path candidate = Path(folder) / name;
    if (!folder.empty() && is_program(candidate)) {
      return candidate;
    }
  }
  return std::nullopt;
}

// Sorted, so that two machines with the same files choose the same one.
std::vector<Path> entries_starting_with(const Path& folder, std::string_view prefix) {
  std::vector<Path> found;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    if (it->path().filename().string().starts_with(prefix)) {
      found.push_back(it->path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::optional<Path> find_in_wheel(const Path& venv) {
  for (const Path& python : entries_starting_with(venv / "lib", "python3")) {
    const Path binaries = python / "site-packages" / "imageio_ffmpeg" / "binaries";
    for (const Path& program : entries_starting_with(binaries, "ffmpeg-")) {
      if (is_program(program)) {
        return program;
      }
    }
  }
  return std::nullopt;
}

Path named_by_variable(const char* variable, const std::string& value) {
  const bool is_bare_name = value.find('/') == std::string::npos;
  const std::optional<Path> found = is_bare_name ? find_on_path(value) : Path(value);
  if (!found || !is_program(*found)) {
    throw IoError(Code::kMissingProgram, str(variable, " is ", escape_control(value),
                                             ", which is no program. ", kHowToGet));
  }
  return *found;
}

std::vector<std::string> with_common(std::vector<std::string> arguments) {
  std::vector<std::string> all = {"-hide_banner", "-nostdin", "-nostats", "-loglevel", "error"};
  all.insert(all.end(), std::make_move_iterator(arguments.begin()),
             std::make_move_iterator(arguments.end()));
  return all;
}

ProcessResult run_question(const Path& program, const char* question) {
  ProcessSpec spec = decoder_spec({.program = program}, {}, {});
  spec.arguments = {question};
  spec.total_limit = std::chrono::seconds(20);
  return run_process(std::move(spec), 1 << 20);
}

std::string ask_version(const Path& program) {
  ProcessResult result = run_question(program, "-version");
  if (!result.end.is_success()) {
    throw IoError(
        Code::kMissingProgram,
        str(escape_control(program.string()), " -version ", result.end.describe(),
            result.end.last_line.empty() ? "" : ": ", result.end.last_line, ". ", kHowToGet));
  }
  return std::move(result.output);
}

// A program that cannot tell is taken to have no such protocol.
bool has_protocol(const Path& program, std::string_view name) {
  const std::vector<std::string> lines = split(run_question(program, "-protocols").output, '\n');
  return std::any_of(lines.begin(), lines.end(),
                     [name](const std::string& line) { return trim(line) == name; });
}

}  // namespace

std::optional<Path> find_ffmpeg(std::span<const Path> venvs) {
  for (const char* variable : {"FASTWAN_FFMPEG_BIN", "FASTVIDEO_FFMPEG_BIN"}) {
    if (const std::optional<std::string> value = env(variable)) {
      return named_by_variable(variable, *value);
    }
  }
  if (std::optional<Path> program = find_on_path("ffmpeg")) {
    return program;
  }
  for (const Path& venv : venvs) {
    if (std::optional<Path> program = find_in_wheel(venv)) {
      return program;
    }
  }
  return std::nullopt;
}

Ffmpeg open_ffmpeg(std::span<const Path> venvs) {
  const std::optional<Path> program = find_ffmpeg(venvs);
  if (!program) {
    throw IoError(Code::kMissingProgram, str("there is no ffmpeg on PATH. ", kHowToGet));
  }
  return open_ffmpeg_at(*program);
}

Ffmpeg open_ffmpeg_at(const Path& program) {
  // "ffmpeg version n9.0.2-17-g2a571b6068-20260930 Copyright (c) ..."
  constexpr std::string_view kStart = "ffmpeg version ";
  const std::string about = ask_version(program);
  if (!about.starts_with(kStart)) {
    throw IoError(Code::kMissingProgram,
                  str(escape_control(program.string()), " is not ffmpeg. ", kHowToGet));
  }
  const std::string_view rest = std::string_view(about).substr(kStart.size());
  return {.program = program,
          .version = escape_control(rest.substr(0, rest.find_first_of(" \n"))),
          .has_fd_protocol = has_protocol(program, "fd")};
}

ProcessSpec decoder_spec(const Ffmpeg& ffmpeg,
                         std::vector<std::string> arguments,
                         std::stop_token stop) {
  return {.program = ffmpeg.program,
          .arguments = with_common(std::move(arguments)),
          .limits = {.address_space_bytes = 2 * kGiB,
                     .cpu_seconds = 60,
                     .open_files = kOpenFiles,
                     .file_bytes = 0},
          .output = ProcessOutput::kPipe,
          .total_limit = std::chrono::seconds(120),
          .stop = std::move(stop)};
}

ProcessSpec encoder_spec(const Ffmpeg& ffmpeg,
                         std::vector<std::string> arguments,
                         std::stop_token stop) {
  return {.program = ffmpeg.program,
          .arguments = with_common(std::move(arguments)),
          .environment = {"SVT_LOG=1"},  // the AV1 encoder greets on stderr otherwise
          .limits = {.address_space_bytes = 4 * kGiB, .open_files = kOpenFiles},
          .stop = std::move(stop)};
}

}  // namespace fastwan::io
