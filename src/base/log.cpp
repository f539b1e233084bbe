#include "base/log.h"

#include <array>
#include <utility>

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include "base/json.h"
#include "base/text.h"

namespace fastwan::log {
namespace {

constexpr std::array<std::pair<Level, const char*>, 5> kNames = {{{Level::kTrace, "trace"},
                                                                  {Level::kDebug, "debug"},
                                                                  {Level::kInfo, "info"},
                                                                  {Level::kWarn, "warn"},
                                                                  {Level::kError, "error"}}};

spdlog::level::level_enum to_spdlog(Level level) {
  return static_cast<spdlog::level::level_enum>(static_cast<int>(level));
}

struct Logger {
  std::shared_ptr<spdlog::logger> out = std::make_shared<spdlog::logger>(
      "fastwan", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  bool json = false;

  Logger() {
    out->set_pattern("%Y-%m-%dT%H:%M:%S.%eZ %l %v", spdlog::pattern_time_type::utc);
    out->set_level(spdlog::level::warn);
    out->flush_on(spdlog::level::trace);
  }
};

Logger& logger() {
  static Logger instance;
  return instance;
}

}  // namespace

void set_level(Level level) {
  logger().out->set_level(to_spdlog(level));
}

Level level() {
  return static_cast<Level>(static_cast<int>(logger().out->level()));
}

bool is_enabled(Level level) {
  return logger().out->should_log(to_spdlog(level));
}

void set_json(bool json) {
  logger().json = json;
  logger().out->set_pattern(json ? R"({"ts":"%Y-%m-%dT%H:%M:%S.%eZ","level":"%l","message":%v})"
                                 : "%Y-%m-%dT%H:%M:%S.%eZ %l %v",
                            spdlog::pattern_time_type::utc);
}

std::optional<Level> parse_level(std::string_view name) {
  for (const auto& [level, text] : kNames) {
    if (name == text) {
      return level;
    }
  }
  return std::nullopt;
}

void write(Level level, const std::string& message) {
  const std::string text =
      logger().json ? Json(escape_control(message)).dump() : escape_control(message);
  logger().out->log(to_spdlog(level), "{}", text);
}

}  // namespace fastwan::log
