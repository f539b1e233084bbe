#include "config/assign.h"

#include <cmath>

namespace fastwan::config {
namespace {

std::string words(const Range& range, const char* kind) {
  std::string out = kind;
  if (std::isfinite(range.min) && std::isfinite(range.max)) {
    out += str(" from ", format_number(range.min), " to ", format_number(range.max));
  }
  return out;
}

}  // namespace

void throw_bad_value(const std::string& where, const std::string& wanted, const std::string& got) {
  throw InvalidInput(Code::kBadValue, str(where, " must be ", wanted, ", got ",
                                          got.empty() ? "nothing" : escape_control(got)));
}

int64_t to_int(std::string_view text, const Range& range, const std::string& where) {
  const std::optional<int64_t> value = parse_int(text);
  if (!value || static_cast<double>(*value) < range.min ||
      static_cast<double>(*value) > range.max) {
    throw_bad_value(where, words(range, "a whole number"), std::string(text));
  }
  return *value;
}

double to_number(std::string_view text, const Range& range, const std::string& where) {
  const std::optional<double> value = parse_double(text);
  if (!value || *value < range.min || *value > range.max) {
    throw_bad_value(where, words(range, "a number"), std::string(text));
  }
  return *value;
}

// Python and YAML write True and TRUE too.
bool to_bool(std::string_view text, const std::string& where) {
  const std::string word = to_lower(text);
  if (word == "true" || word == "1" || word == "yes" || word == "on") {
    return true;
  }
  if (word == "false" || word == "0" || word == "no" || word == "off") {
    return false;
  }
  throw_bad_value(where, "true or false", std::string(text));
}

void assign(std::vector<int64_t>& to,
            const std::vector<std::string>& texts,
            const Range& range,
            const std::string& where) {
  to.clear();
  for (const std::string& text : texts) {
    for (const std::string& part : split(text, ',')) {
      to.push_back(to_int(trim(part), range, where));
    }
  }
}

void assign(std::array<double, 2>& to,
            const std::vector<std::string>& texts,
            const Range& range,
            const std::string& where) {
  const std::vector<std::string> parts = texts.size() == 1 ? split(texts[0], ',') : texts;
  if (parts.size() != to.size()) {
    throw_bad_value(where, "two numbers",
                    str(parts.size(), parts.size() == 1 ? " value" : " values"));
  }
  for (std::size_t i = 0; i < to.size(); ++i) {
    to[i] = to_number(trim(parts[i]), range, where);
  }
}

std::vector<std::string> to_texts(const std::string& value) {
  return {value};
}

std::vector<std::string> to_texts(const std::vector<int64_t>& value) {
  std::vector<std::string> out;
  for (const int64_t number : value) {
    out.push_back(std::to_string(number));
  }
  return out;
}

std::vector<std::string> to_texts(const std::array<double, 2>& value) {
  return {format_number(value[0]), format_number(value[1])};
}

}  // namespace fastwan::config
