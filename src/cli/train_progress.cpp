#include "cli/train_progress.h"

#include <array>
#include <cmath>
#include <cstdio>
#include <iomanip>
#include <sstream>

#include <unistd.h>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/table.h"

namespace fastwan::cli {
namespace {

std::string digits(double value, int significant) {
  std::ostringstream out;
  out.imbue(std::locale::classic());
  out << std::setprecision(significant) << value;
  return out.str();
}

std::string time_left(double seconds) {
  if (seconds < 90) {
    return str(std::lround(seconds), " s left");
  }
  if (seconds < 90 * 60) {
    return str(std::lround(seconds / 60), " min left");
  }
  return digits(seconds / 3600, 3) + " h left";
}

}  // namespace

std::string progress_line(const config::TrainProgress& now, std::optional<double> seconds_a_step) {
  // Metrics that fit a line, in this order, and how it names them.
  constexpr std::array<std::pair<const char*, const char*>, 8> kShown = {
      {{"train_loss", "loss"},
       {"train_total_loss", "loss"},
       {"train_generator_loss", "student"},
       {"train_fake_score_loss", "critic"},
       {"grad_norm", "grad_norm"},
       {"learning_rate", "lr"},
       {"accuracy", "accuracy"},
       {"psnr", "psnr"}}};
  std::string line = str("step ", now.step, "/", now.total);
  for (const auto& [metric, name] : kShown) {
    if (const auto found = now.metrics.find(metric); found != now.metrics.end()) {
      line += str("  ", name, " ", digits(found->second, 4));
    }
  }
  if (seconds_a_step) {
    line += str("  ", digits(*seconds_a_step, 3), " s/step  ",
                time_left(*seconds_a_step * static_cast<double>(now.total - now.step)));
  }
  if (const auto rate = now.metrics.find("tokens_per_second"); rate != now.metrics.end()) {
    line += str("  ", format_count(rate->second), " tokens/s");
  }
  if (const auto share = now.metrics.find("mfu"); share != now.metrics.end()) {
    line += str("  MFU ", digits(100 * share->second, 3), " %");
  }
  return line;
}

TrainProgressPrinter::TrainProgressPrinter(const std::string& style) {
  if (style == "json") {
    style_ = Style::kJson;
  } else if (style == "none") {
    style_ = Style::kNone;
  } else if (style != "auto" && style != "log") {
    throw InvalidInput(Code::kBadValue, str("--progress must be auto, log, json or none, got ",
                                            escape_control(style)));
  }
  if (style == "auto" && ::isatty(STDERR_FILENO) == 1) {
    interval_ = 1;
  }
}

void TrainProgressPrinter::update(const config::TrainProgress& now) {
  const std::lock_guard lock(mutex_);
  const Clock::time_point time = Clock::now();
  if (!first_step_) {
    first_step_ = now.step;
    first_ = time;
  }
  if (style_ == Style::kNone) {
    return;
  }
  if (style_ == Style::kJson) {
    Json line = {{"v", 1}, {"event", "train"}, {"step", now.step}, {"total", now.total}};
    for (const auto& [name, value] : now.metrics) {
      line[name] = std::isfinite(value) ? Json(value) : Json(nullptr);
    }
    std::fputs((line.dump() + "\n").c_str(), stderr);
    return;
  }
  const std::chrono::duration<double> since_line = time - last_line_;
  if (last_line_ != Clock::time_point{} && since_line.count() < interval_ &&
      now.step != now.total) {
    return;
  }
  last_line_ = time;
  std::optional<double> seconds_a_step;
  if (now.step > *first_step_) {
    const std::chrono::duration<double> since_first = time - first_;
    seconds_a_step = since_first.count() / static_cast<double>(now.step - *first_step_);
  }
  std::fputs((progress_line(now, seconds_a_step) + "\n").c_str(), stderr);
}

void TrainProgressPrinter::say(const std::string& line) {
  const std::lock_guard lock(mutex_);
  std::fputs((escape_control(line) + "\n").c_str(), stderr);
}

}  // namespace fastwan::cli
