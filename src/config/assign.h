// Text to typed setting, with one form of error for flags, run files and overrides.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/text.h"
#include "config/generate.h"

namespace fastwan::config {

// Where a text came from: "--height" or "run.yaml:3:13: request.sampling.height".
[[noreturn]] void throw_bad_value(const std::string& where,
                                  const std::string& wanted,
                                  const std::string& got);

int64_t to_int(std::string_view text, const Range& range, const std::string& where);
double to_number(std::string_view text, const Range& range, const std::string& where);
bool to_bool(std::string_view text, const std::string& where);

template <class E>
E to_enum(std::string_view text, const std::string& where) {
  std::string wanted;
  for (const auto& entry : names(E{})) {
    if (text == entry.name) {
      return entry.value;
    }
    wanted += str(wanted.empty() ? "one of " : ", ", entry.name);
  }
  throw_bad_value(where, wanted, std::string(text));
}

// `texts`: one element, or several for a list.
inline void assign(std::string& to,
                   const std::vector<std::string>& texts,
                   const Range&,
                   const std::string& where) {
  if (texts.size() != 1) {
    throw_bad_value(where, "a single text", str(texts.size(), " values"));
  }
  to = texts[0];
}
inline void assign(int64_t& to,
                   const std::vector<std::string>& texts,
                   const Range& range,
                   const std::string& where) {
  to = to_int(texts.size() == 1 ? texts[0] : "", range, where);
}
inline void assign(double& to,
                   const std::vector<std::string>& texts,
                   const Range& range,
                   const std::string& where) {
  to = to_number(texts.size() == 1 ? texts[0] : "", range, where);
}
inline void assign(bool& to,
                   const std::vector<std::string>& texts,
                   const Range&,
                   const std::string& where) {
  to = to_bool(texts.size() == 1 ? texts[0] : "", where);
}
inline void assign(std::vector<std::string>& to,
                   const std::vector<std::string>& texts,
                   const Range&,
                   const std::string&) {
  to = texts;
}
// Integers of a list: several texts, or one with commas.
void assign(std::vector<int64_t>& to,
            const std::vector<std::string>& texts,
            const Range& range,
            const std::string& where);
// Two numbers: two texts, or one with a comma.
void assign(std::array<double, 2>& to,
            const std::vector<std::string>& texts,
            const Range& range,
            const std::string& where);
template <class E>
requires std::is_enum_v<E>
void assign(E& to, const std::vector<std::string>& texts, const Range&, const std::string& where) {
  to = to_enum<E>(texts.size() == 1 ? texts[0] : "", where);
}

template <class T>
void assign(Setting<T>& setting,
            const FieldInfo& field,
            const std::vector<std::string>& texts,
            Origin origin,
            const std::string& where) {
  T value{};
  assign(value, texts, field.range, where);
  setting.set(std::move(value), origin);
}

// Values as JSON or a person reads them.
std::vector<std::string> to_texts(const std::string& value);
inline std::vector<std::string> to_texts(int64_t value) {
  return {std::to_string(value)};
}
inline std::vector<std::string> to_texts(double value) {
  return {format_number(value)};
}
inline std::vector<std::string> to_texts(bool value) {
  return {value ? "true" : "false"};
}
inline std::vector<std::string> to_texts(const std::vector<std::string>& value) {
  return value;
}
std::vector<std::string> to_texts(const std::vector<int64_t>& value);
std::vector<std::string> to_texts(const std::array<double, 2>& value);
template <class E>
requires std::is_enum_v<E> std::vector<std::string> to_texts(E value) {
  return {name_of(value)};
}

}  // namespace fastwan::config
