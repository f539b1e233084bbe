// Log lines on stderr, behind spdlog. Messages are built with str(...): no format strings in
// headers.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fastwan::log {

enum class Level { kTrace, kDebug, kInfo, kWarn, kError };

void set_level(Level level);
Level level();
bool is_enabled(Level level);
void set_json(bool json);                                 // one JSON object a line
std::optional<Level> parse_level(std::string_view name);  // "warn"

void write(Level level, const std::string& message);
inline void debug(const std::string& message) {
  write(Level::kDebug, message);
}
inline void info(const std::string& message) {
  write(Level::kInfo, message);
}
inline void warn(const std::string& message) {
  write(Level::kWarn, message);
}
inline void error(const std::string& message) {
  write(Level::kError, message);
}

}  // namespace fastwan::log
