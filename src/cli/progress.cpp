#include "cli/progress.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <string_view>

#include <sys/ioctl.h>
#include <unistd.h>

#include "base/env.h"
#include "base/json.h"
#include "base/text.h"

namespace fastwan::cli {
namespace {

constexpr auto kRedraw = std::chrono::milliseconds(100);
constexpr auto kLogEvery = std::chrono::seconds(5);
constexpr int kBarWidth = 24;
constexpr int kFallbackColumns = 80;

struct StageShare {
  std::string_view stage;
  double share;  // of the whole run, a first guess: denoising dominates
};
constexpr std::array kShares = {StageShare{"load", 0.08}, StageShare{"text", 0.07},
                                StageShare{"denoise", 0.65}, StageShare{"decode", 0.20}};

bool stderr_is_terminal() {
  return ::isatty(STDERR_FILENO) == 1 && env("TERM").value_or("dumb") != "dumb" && !env("CI");
}

int terminal_columns() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    return size.ws_col;
  }
  return kFallbackColumns;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

std::string format_seconds(double seconds) {
  const auto whole = static_cast<int64_t>(std::lround(seconds));
  if (whole < 60) {
    return str(whole, "s");
  }
  const std::string rest = std::to_string(whole % 60);
  return str(whole / 60, "m", rest.size() < 2 ? "0" : "", rest, "s");
}

// Cuts at a character, never inside one.
std::string shorten(const std::string& text, std::size_t columns) {
  if (text.size() <= columns) {
    return text;
  }
  std::size_t end = columns > 3 ? columns - 3 : 0;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) {
    --end;
  }
  return text.substr(0, end) + "...";
}

void put(const std::string& text) {
  std::fputs(text.c_str(), stderr);
}

}  // namespace

ProgressPrinter::ProgressPrinter(ProgressStyle style) : style_(style) {
  if (style_ == ProgressStyle::kAuto) {
    style_ = stderr_is_terminal() ? ProgressStyle::kBar : ProgressStyle::kLog;
  }
}

ProgressPrinter::~ProgressPrinter() {
  clear_bar();
}

void ProgressPrinter::begin_job(int64_t job, int64_t jobs, const std::string& title) {
  const std::lock_guard lock(mutex_);
  job_ = job;
  jobs_ = jobs;
  title_ = escape_control(title);
  now_ = {};
  job_start_ = stage_start_ = Clock::now();
  last_draw_ = {};
}

double ProgressPrinter::fraction() const {
  double done = 0;
  for (const StageShare& stage : kShares) {
    if (stage.stage == now_.stage) {
      const double part =
          now_.total > 0 ? static_cast<double>(now_.step) / static_cast<double>(now_.total) : 0;
      return std::clamp(done + stage.share * part, 0.0, 1.0);
    }
    done += stage.share;
  }
  return now_.stage == "encode" ? 1.0 : 0.0;
}

void ProgressPrinter::update(const Progress& progress) {
  const std::lock_guard lock(mutex_);
  const bool new_stage = progress.stage != now_.stage;
  if (new_stage) {
    stage_start_ = Clock::now();
  }
  now_ = progress;
  const bool stage_done = progress.step == progress.total;
  if (style_ == ProgressStyle::kJson) {
    const double done = fraction();
    const double elapsed = seconds_since(job_start_);
    Json line = {
        {"v", 1},
        {"ts", std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
                   .count()},
        {"event", "progress"},
        {"job", job_},
        {"stage", now_.stage},
        {"step", now_.step},
        {"total", now_.total},
        {"fraction", done}};
    if (done > 0.05) {
      line["eta_s"] = elapsed / done - elapsed;
    }
    put(line.dump() + "\n");
    return;
  }
  draw(new_stage || stage_done);
}

void ProgressPrinter::draw(bool force) {
  const auto now = Clock::now();
  if (style_ == ProgressStyle::kBar && (force || now - last_draw_ >= kRedraw)) {
    const double done = fraction();
    const double elapsed = seconds_since(job_start_);
    const int filled = static_cast<int>(std::lround(done * kBarWidth));
    std::string bar(static_cast<std::size_t>(filled), '#');
    bar.resize(kBarWidth, '.');
    const std::string count = now_.total > 1 ? str(" ", now_.step, "/", now_.total) : "";
    const std::string left =
        done > 0.05 && done < 1 ? ", " + format_seconds(elapsed / done - elapsed) + " left" : "";
    const std::string which = jobs_ > 1 ? str(job_, "/", jobs_, " ") : "";
    const std::string line = str(which, "[", bar, "] ", now_.stage, count, ", ",
                                 format_seconds(elapsed), left, "  ", title_);
    put("\r\033[K" + shorten(line, static_cast<std::size_t>(terminal_columns() - 1)));
    std::fflush(stderr);
    bar_is_shown_ = true;
    last_draw_ = now;
  }
  const bool stage_done = now_.step == now_.total;
  if (style_ == ProgressStyle::kLog && (stage_done || now - last_draw_ >= kLogEvery)) {
    const std::string which = jobs_ > 1 ? str("[", job_, "/", jobs_, "] ") : "";
    std::array<char, 32> seconds{};
    std::snprintf(seconds.data(), seconds.size(), "%.1f", seconds_since(stage_start_));
    put(str(which, now_.stage, " ", now_.step, "/", now_.total, " (", seconds.data(), " s)\n"));
    last_draw_ = now;
  }
}

void ProgressPrinter::clear_bar() {
  if (bar_is_shown_) {
    put("\r\033[K");
    std::fflush(stderr);
    bar_is_shown_ = false;
  }
}

void ProgressPrinter::end_job() {
  const std::lock_guard lock(mutex_);
  clear_bar();
}

void ProgressPrinter::say(const std::string& line) {
  const std::lock_guard lock(mutex_);
  clear_bar();
  put(escape_control(line) + "\n");
}

}  // namespace fastwan::cli
