#include "io/process.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <ctime>
#include <system_error>
#include <thread>

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/text.h"
#include "io/descriptor.h"

namespace fastwan::io {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr std::size_t kErrorTailBytes = 8192;
constexpr milliseconds kSlice{50};   // how late a stop request or a deadline may be seen
constexpr int kFirstPrivateFd = 10;  // above every number that the child gets
constexpr int kPipeBytes = 1 << 20;  // 64 KiB, the default, is 20 waits for one 480x832 frame

[[noreturn]] void throw_system_error(const char* action) {
  throw IoError(Code::kReadFailed,
                str("cannot ", action, ": ", std::generic_category().message(errno)));
}

struct Pipe {
  Descriptor read_end;
  Descriptor write_end;
};

// Both ends are numbered above what the child gets, so that dup2() in the child overwrites nothing.
Descriptor move_up(Descriptor fd) {
  Descriptor moved(::fcntl(fd.get(), F_DUPFD_CLOEXEC, kFirstPrivateFd));
  if (!moved.is_open()) {
    throw_system_error("duplicate a descriptor");
  }
  return moved;
}

Pipe make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw_system_error("make a pipe");
  }
  Pipe pipe{Descriptor(ends[0]), Descriptor(ends[1])};
  pipe.read_end = move_up(std::move(pipe.read_end));
  pipe.write_end = move_up(std::move(pipe.write_end));
  return pipe;
}

void set_nonblocking(const Descriptor& fd) {
  if (::fcntl(fd.get(), F_SETFL, O_NONBLOCK) != 0) {
    throw_system_error("make a pipe non-blocking");
  }
}

Descriptor null_device(int flags) {
  Descriptor opened(::open("/dev/null", flags | O_CLOEXEC));
  if (!opened.is_open()) {
    throw_io_error(errno, "/dev/null", "open");
  }
  return move_up(std::move(opened));
}

// Everything the child needs between vfork and exec, made before: there it may only make system
// calls.
struct Launch {
  const char* program = nullptr;
  char* const* arguments = nullptr;
  char* const* environment = nullptr;
  std::array<int, 4> fds{-1, -1, -1, -1};  // become 0, 1, 2, 3
  struct Limit {
    int resource = 0;
    rlimit value{};
  };
  std::array<Limit, 5> limits{};
  std::size_t num_limits = 0;
  int status_fd = -1;  // close-on-exec; carries errno when exec fails
};

[[noreturn]] void run_child(const Launch& launch) {
  ::setpgid(0, 0);
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action {};
    // Above RLIMIT_FSIZE a write then fails with "File too large", which the child can report.
    action.sa_handler = signal == SIGXFSZ ? SIG_IGN : SIG_DFL;
    ::sigaction(signal, &action, nullptr);
  }
  bool ready = true;
  for (int i = 0; i < static_cast<int>(launch.fds.size()); ++i) {
    const int fd = launch.fds[static_cast<std::size_t>(i)];
    ready = ready && (fd < 0 || ::dup2(fd, i) == i);
  }
  const unsigned first_unwanted = launch.fds[3] < 0 ? 3 : 4;
#ifdef SYS_close_range
  constexpr unsigned kCloseOnExec = 1U << 2;                      // CLOSE_RANGE_CLOEXEC
  ::syscall(SYS_close_range, first_unwanted, ~0U, kCloseOnExec);  // what other libraries left open
#endif
  for (std::size_t i = 0; i < launch.num_limits; ++i) {
    ready = ready && ::setrlimit(static_cast<__rlimit_resource_t>(launch.limits[i].resource),
                                 &launch.limits[i].value) == 0;
  }
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (ready) {
    ::execve(launch.program, launch.arguments, launch.environment);
  }
  const int error = errno;
  (void)!::write(launch.status_fd, &error, sizeof error);
  ::_exit(127);
}

// vfork: a plain fork copies the page tables of a process that may hold 30 GB of weights, and
// fails where memory must not be overcommitted. All signals are blocked meanwhile, since a handler
// in the child would run on the parent's memory.
[[gnu::noinline]] pid_t spawn(const Launch& launch) {
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t pid = ::vfork();  // NOLINT(clang-analyzer-security.insecureAPI.vfork)
  if (pid == 0) {
    run_child(launch);
  }
  const int error = errno;
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  errno = error;
  return pid;
}

void add_limit(Launch& launch, int resource, const std::optional<int64_t>& wanted) {
  if (!wanted) {
    return;
  }
  rlimit current{};
  ::getrlimit(static_cast<__rlimit_resource_t>(resource), &current);
  const rlim_t value = std::min<rlim_t>(static_cast<rlim_t>(*wanted), current.rlim_max);
  launch.limits[launch.num_limits++] = {resource, {value, value}};
}

std::vector<char*> c_strings(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  pointers.reserve(texts.size() + 1);
  for (std::string& text : texts) {
    pointers.push_back(text.data());
  }
  pointers.push_back(nullptr);
  return pointers;
}

// Writing to a pipe that nobody reads raises SIGPIPE; in this thread, and for this write only, it
// is an error like any other.
class SigPipeBlock {
 public:
  SigPipeBlock() {
    ::sigemptyset(&pipe_);
    ::sigaddset(&pipe_, SIGPIPE);
    sigset_t pending;
    ::sigpending(&pending);
    was_pending_ = ::sigismember(&pending, SIGPIPE) == 1;
    ::pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~SigPipeBlock() {
    if (!was_pending_) {
      const timespec now{};
      while (::sigtimedwait(&pipe_, nullptr, &now) < 0 && errno == EINTR) {
      }
    }
    ::pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  SigPipeBlock(const SigPipeBlock&) = delete;
  SigPipeBlock& operator=(const SigPipeBlock&) = delete;

 private:
  sigset_t pipe_{};
  sigset_t before_{};
  bool was_pending_ = false;
};

std::string last_line_of(std::string_view text) {
  std::string_view last;
  while (!text.empty()) {
    const std::size_t end = text.find_first_of("\r\n");
    const std::string_view line = trim(text.substr(0, end));
    last = line.empty() ? last : line;
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  }
  return escape_control(last);
}

// CPU time that another process has used, in nanoseconds; -1 when it is gone.
int64_t cpu_time_of(pid_t pid) {
  clockid_t clock{};
  timespec used{};
  if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &used) != 0) {
    return -1;
  }
  return static_cast<int64_t>(used.tv_sec) * 1'000'000'000 + used.tv_nsec;
}

}  // namespace

std::string ProcessEnd::describe() const {
  switch (kind) {
    case Kind::kExited:
      return str("ended with status ", value);
    case Kind::kSignalled:
      return str("was killed by signal ", value);
    case Kind::kStalled:
      return "made no progress and was stopped";
    case Kind::kTimedOut:
      return "ran too long and was stopped";
  }
  return {};
}

struct Process::Impl {
  explicit Impl(ProcessSpec wanted) : spec(std::move(wanted)) {}

  void start();
  // Waits until `fd` is ready, collecting stderr meanwhile. False when the child was killed for a
  // stall or for its total time.
  bool wait_for(int fd, short events);
  void collect_errors();
  void kill_as(ProcessEnd::Kind kind);
  void kill_group();
  bool reap(bool block);
  bool is_over_time() const {
    return spec.total_limit && Clock::now() - started > *spec.total_limit;
  }
  void throw_if_stopped() {
    if (spec.stop.stop_requested()) {
      kill_group();
      reap(/*block=*/true);  // a later wait() then reports the end instead of throwing again
      throw Stopped();
    }
  }
  // Asked before every system call of a transfer: a child that always has bytes ready, or always
  // takes them, never makes us wait. False when it was killed for its total time.
  bool may_go_on() {
    throw_if_stopped();
    if (is_over_time()) {
      kill_as(ProcessEnd::Kind::kTimedOut);
      return false;
    }
    return true;
  }

  ProcessSpec spec;
  pid_t pid = -1;
  bool is_reaped = false;
  int status = 0;
  std::optional<ProcessEnd::Kind> killed_as;
  Descriptor input;
  Descriptor output;
  Descriptor errors;
  std::string error_tail;
  Clock::time_point started = Clock::now();
};

void Process::Impl::start() {
  std::vector<std::string> argument_texts{spec.program.string()};
  argument_texts.insert(argument_texts.end(), spec.arguments.begin(), spec.arguments.end());
  std::vector<char*> arguments = c_strings(argument_texts);
  std::vector<char*> environment = c_strings(spec.environment);

  Descriptor child_input;
  if (spec.input_fd >= 0) {
    child_input = Descriptor(::fcntl(spec.input_fd, F_DUPFD_CLOEXEC, kFirstPrivateFd));
  } else {
    Pipe pipe = make_pipe();
    child_input = std::move(pipe.read_end);
    input = std::move(pipe.write_end);
    ::fcntl(input.get(), F_SETPIPE_SZ, kPipeBytes);  // smaller where the system says so
    set_nonblocking(input);
  }
  Descriptor child_output;
  if (spec.output == ProcessOutput::kPipe) {
    Pipe pipe = make_pipe();
    child_output = std::move(pipe.write_end);
    output = std::move(pipe.read_end);
    ::fcntl(output.get(), F_SETPIPE_SZ, kPipeBytes);
    set_nonblocking(output);
  } else {
    child_output = null_device(O_WRONLY);
  }
  Pipe error_pipe = make_pipe();
  errors = std::move(error_pipe.read_end);
  set_nonblocking(errors);
  Descriptor child_extra;
  if (spec.extra_fd >= 0) {
    child_extra = Descriptor(::fcntl(spec.extra_fd, F_DUPFD_CLOEXEC, kFirstPrivateFd));
  }
  Pipe status_pipe = make_pipe();

  Launch launch{
      .program = argument_texts.front().c_str(),
      .arguments = arguments.data(),
      .environment = environment.data(),
      .fds = {child_input.get(), child_output.get(), error_pipe.write_end.get(), child_extra.get()},
      .status_fd = status_pipe.write_end.get()};
  add_limit(launch, RLIMIT_CORE, 0);
  add_limit(launch, RLIMIT_AS, spec.limits.address_space_bytes);
  add_limit(launch, RLIMIT_CPU, spec.limits.cpu_seconds);
  add_limit(launch, RLIMIT_NOFILE, spec.limits.open_files);
  add_limit(launch, RLIMIT_FSIZE, spec.limits.file_bytes);

  started = Clock::now();
  pid = spawn(launch);
  if (pid < 0) {
    throw_system_error("start a process");
  }
  status_pipe.write_end.reset();
  int exec_error = 0;
  ssize_t got = 0;
  do {
    got = ::read(status_pipe.read_end.get(), &exec_error, sizeof exec_error);
  } while (got < 0 && errno == EINTR);
  if (got == static_cast<ssize_t>(sizeof exec_error)) {
    reap(/*block=*/true);
    throw IoError(Code::kMissingProgram, str("cannot start ", escape_control(spec.program.string()),
                                             ": ", std::generic_category().message(exec_error)));
  }
}

void Process::Impl::collect_errors() {
  std::array<char, 4096> buffer{};
  while (errors.is_open()) {
    const ssize_t got = ::read(errors.get(), buffer.data(), buffer.size());
    if (got > 0) {
      error_tail.append(buffer.data(), static_cast<std::size_t>(got));
      if (error_tail.size() > 2 * kErrorTailBytes) {
        error_tail.erase(0, error_tail.size() - kErrorTailBytes);
      }
    } else if (got < 0 && errno == EINTR) {
      continue;
    } else if (got < 0 && errno == EAGAIN) {
      return;
    } else {
      errors.reset();  // end of file
    }
  }
}

bool Process::Impl::wait_for(int fd, short events) {
  const Clock::time_point since = Clock::now();
  while (may_go_on()) {
    std::array<pollfd, 2> watched{pollfd{fd, events, 0}, pollfd{errors.get(), POLLIN, 0}};
    const int ready = ::poll(watched.data(), watched.size(), static_cast<int>(kSlice.count()));
    if (ready < 0 && errno != EINTR) {
      throw_system_error("wait for a process");
    }
    if (ready > 0 && watched[1].revents != 0) {
      collect_errors();
    }
    if (ready > 0 && watched[0].revents != 0) {
      return true;
    }
    if (Clock::now() - since > spec.stall_limit) {
      kill_as(ProcessEnd::Kind::kStalled);
      return false;
    }
  }
  return false;
}

void Process::Impl::kill_as(ProcessEnd::Kind kind) {
  if (!killed_as) {
    killed_as = kind;
  }
  kill_group();
}

void Process::Impl::kill_group() {
  if (pid > 0 && !is_reaped) {
    ::kill(-pid, SIGKILL);
  }
}

bool Process::Impl::reap(bool block) {
  while (!is_reaped) {
    siginfo_t ended{};
    const int flags = WEXITED | WNOWAIT | (block ? 0 : WNOHANG);
    if (::waitid(P_PID, static_cast<id_t>(pid), &ended, flags) != 0) {
      if (errno == EINTR) {
        continue;
      }
      throw_system_error("wait for a process");
    }
    if (ended.si_pid == 0) {
      return false;
    }
    // While it is not reaped its number cannot be taken by another group: now end its children.
    ::kill(-pid, SIGKILL);
    is_reaped = ::waitpid(pid, &status, 0) == pid;
  }
  return true;
}

Process::Process(ProcessSpec spec) : impl_(std::make_unique<Impl>(std::move(spec))) {
  impl_->start();
}

Process::~Process() {
  if (!impl_->is_reaped) {
    impl_->kill_group();
    impl_->reap(/*block=*/true);
  }
}

int Process::pid() const {
  return impl_->pid;
}

void Process::close_input() {
  impl_->input.reset();
}

bool Process::write(std::span<const std::byte> bytes) {
  const SigPipeBlock block;
  while (!bytes.empty()) {
    if (!impl_->input.is_open() || !impl_->may_go_on()) {
      return false;
    }
    const ssize_t written = ::write(impl_->input.get(), bytes.data(), bytes.size());
    if (written >= 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    } else if (errno == EAGAIN) {
      if (!impl_->wait_for(impl_->input.get(), POLLOUT)) {
        return false;
      }
    } else if (errno == EPIPE) {
      close_input();
      return false;
    } else if (errno != EINTR) {
      throw_system_error("write to a process");
    }
  }
  impl_->collect_errors();
  impl_->throw_if_stopped();
  return true;
}

std::size_t Process::read(std::span<std::byte> to) {
  while (impl_->output.is_open()) {
    if (!impl_->may_go_on()) {
      impl_->output.reset();
      break;
    }
    const ssize_t got = ::read(impl_->output.get(), to.data(), to.size());
    if (got > 0) {
      impl_->collect_errors();
      return static_cast<std::size_t>(got);
    }
    if (got == 0) {
      impl_->output.reset();
    } else if (errno == EAGAIN) {
      if (!impl_->wait_for(impl_->output.get(), POLLIN)) {
        impl_->output.reset();
      }
    } else if (errno != EINTR) {
      throw_system_error("read from a process");
    }
  }
  return 0;
}

ProcessEnd Process::wait() {
  Impl& child = *impl_;
  child.input.reset();
  child.output.reset();
  int64_t cpu_time = -1;
  Clock::time_point last_progress = Clock::now();
  while (!child.reap(/*block=*/false)) {
    child.throw_if_stopped();
    const int64_t now_used = cpu_time_of(child.pid);
    if (now_used != cpu_time) {
      cpu_time = now_used;
      last_progress = Clock::now();
    }
    if (child.is_over_time()) {
      child.kill_as(ProcessEnd::Kind::kTimedOut);
    } else if (Clock::now() - last_progress > child.spec.stall_limit) {
      child.kill_as(ProcessEnd::Kind::kStalled);
    }
    // The end of stderr wakes us as soon as the child is gone.
    pollfd watched{child.errors.get(), POLLIN, 0};
    if (child.errors.is_open()) {
      ::poll(&watched, 1, static_cast<int>(kSlice.count()));
      child.collect_errors();
    } else {
      std::this_thread::sleep_for(milliseconds(1));
    }
  }
  child.collect_errors();

  ProcessEnd end;
  if (child.killed_as) {
    end.kind = *child.killed_as;
  } else if (WIFSIGNALED(child.status)) {
    end.kind = ProcessEnd::Kind::kSignalled;
    end.value = WTERMSIG(child.status);
  } else {
    end.value = WEXITSTATUS(child.status);
  }
  const std::size_t cut =
      child.error_tail.size() - std::min(child.error_tail.size(), kErrorTailBytes);
  end.error_text = child.error_tail.substr(cut);
  end.last_line = last_line_of(end.error_text);
  return end;
}

ProcessResult run_process(ProcessSpec spec, int64_t output_limit) {
  spec.output = ProcessOutput::kPipe;
  Process process(std::move(spec));
  process.close_input();
  ProcessResult result;
  std::vector<std::byte> buffer(1 << 16);
  while (static_cast<int64_t>(result.output.size()) < output_limit) {
    const std::size_t got = process.read(buffer);
    if (got == 0) {
      break;
    }
    result.output.append(reinterpret_cast<const char*>(buffer.data()), got);
  }
  if (static_cast<int64_t>(result.output.size()) > output_limit) {
    result.output.resize(static_cast<std::size_t>(output_limit));
  }
  result.end = process.wait();
  return result;
}

}  // namespace fastwan::io
