#include "cli/signals.h"

#include <csignal>
#include <ctime>

#include <unistd.h>

namespace fastwan::cli {
namespace {

sigset_t set_of(const std::vector<int>& signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) {
    sigaddset(&set, signal);
  }
  return set;
}

bool is_ignored(int signal) {
  struct sigaction now {};
  ::sigaction(signal, nullptr, &now);
  return now.sa_handler == SIG_IGN;
}

constexpr int kStoppedStatus = 130;
constexpr long kPollNanoseconds = 50'000'000;

}  // namespace

StopOnSignal::StopOnSignal(std::initializer_list<int> also) : signals_{SIGINT, SIGTERM} {
  signals_.insert(signals_.end(), also.begin(), also.end());
  if (!is_ignored(SIGHUP)) {  // as nohup leaves it
    signals_.push_back(SIGHUP);
  }
  std::signal(SIGPIPE, SIG_IGN);
  const sigset_t set = set_of(signals_);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  waiter_ = std::jthread([this](std::stop_token done) {
    const sigset_t waited = set_of(signals_);
    const timespec poll{.tv_sec = 0, .tv_nsec = kPollNanoseconds};
    while (!done.stop_requested()) {
      const int signal = sigtimedwait(&waited, nullptr, &poll);
      if (signal < 0) {
        continue;
      }
      int none = 0;
      first_.compare_exchange_strong(none, signal);
      if (!source_.request_stop()) {
        _exit(kStoppedStatus);
      }
    }
  });
}

StopOnSignal::~StopOnSignal() = default;

}  // namespace fastwan::cli
