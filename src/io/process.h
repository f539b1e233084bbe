// One child process, started by argument list (never a shell), fed or read through pipes.
//
// The child gets its own process group, the environment that is named here and nothing else, its
// resource limits, and only the descriptors 0, 1, 2 and perhaps 3. It is killed with its whole
// group when it stalls, when it runs too long, when the caller asks to stop and when the object
// goes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "base/files.h"

namespace fastwan::io {

struct ProcessLimits {  // absent: no limit of ours
  std::optional<int64_t> address_space_bytes;
  std::optional<int64_t> cpu_seconds;
  std::optional<int64_t> open_files;
  std::optional<int64_t> file_bytes;
};

enum class ProcessOutput { kDiscard, kPipe };

struct ProcessSpec {
  Path program;
  std::vector<std::string> arguments;    // after the program's name
  std::vector<std::string> environment;  // "NAME=value"
  ProcessLimits limits;
  int input_fd = -1;  // becomes descriptor 0; -1: a pipe that write() feeds
  int extra_fd = -1;  // becomes descriptor 3; -1: none
  ProcessOutput output = ProcessOutput::kDiscard;
  std::chrono::milliseconds stall_limit{120'000};        // without taking or giving a byte
  std::optional<std::chrono::milliseconds> total_limit;  // wall clock, from the start
  std::stop_token stop;
};

struct ProcessEnd {
  enum class Kind { kExited, kSignalled, kStalled, kTimedOut };
  Kind kind = Kind::kExited;
  int value = 0;           // exit status or number of the signal
  std::string error_text;  // the last 8 KiB of stderr, as the child wrote them
  std::string last_line;   // its last line that is not empty, made safe for a terminal

  bool is_success() const { return kind == Kind::kExited && value == 0; }
  std::string describe() const;  // "was killed by signal 9", "ended with status 1"
};

class Process {
 public:
  // IoError missing_program when the program cannot be started.
  explicit Process(ProcessSpec spec);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Feeds the child. False once it takes no more: it died, closed its input, or was killed for a
  // stall; wait() tells which. Throws Stopped.
  bool write(std::span<const std::byte> bytes);
  void close_input();

  // Up to to.size() bytes of its output; 0 at the end. Throws Stopped.
  std::size_t read(std::span<std::byte> to);

  // Closes the pipes and waits. A child that has its input and still computes is left alone; one
  // that uses no CPU time for stall_limit is killed. Throws Stopped.
  ProcessEnd wait();

  int pid() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Runs the program without input and returns what it wrote, at most `output_limit` bytes (then it
// is killed).
struct ProcessResult {
  ProcessEnd end;
  std::string output;
};
ProcessResult run_process(ProcessSpec spec, int64_t output_limit);

}  // namespace fastwan::io
