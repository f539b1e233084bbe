#include "cli/signals.h"

#include <csignal>
#include <ctime>

#include <unistd.h>

namespace fastwan::cli {
namespace {

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

constexpr int kStoppedStatus = 130;
constexpr long kPollNanoseconds = 50'000'000;

}  // namespace

StopOnSignal::StopOnSignal() {
  std::signal(SIGPIPE, SIG_IGN);
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  waiter_ = std::jthread([this](std::stop_token done) {
    const sigset_t waited = stop_signals();
    const timespec poll{.tv_sec = 0, .tv_nsec = kPollNanoseconds};
    while (!done.stop_requested()) {
      if (sigtimedwait(&waited, nullptr, &poll) < 0) {
        continue;
      }
      if (!source_.request_stop()) {
        _exit(kStoppedStatus);
      }
    }
  });
}

StopOnSignal::~StopOnSignal() = default;

}  // namespace fastwan::cli
