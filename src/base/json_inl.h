// Templates of base/json.h.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"
#include "base/text.h"

namespace fastwan {

[[noreturn]] void throw_json_type(std::string_view origin, const char* key, const Json& got);
[[noreturn]] void throw_json_missing(std::string_view origin, const char* key);

template <class T>
T json_get(const Json& object, const char* key, std::string_view origin) {
  if (!object.is_object() || !object.contains(key)) {
    throw_json_missing(origin, key);
  }
  const Json& value = object.at(key);
  if constexpr (std::is_same_v<T, bool>) {
    if (!value.is_boolean()) {
      throw_json_type(origin, key, value);
    }
  } else if constexpr (std::is_integral_v<T>) {
    if (!value.is_number_integer()) {
      throw_json_type(origin, key, value);
    }
  } else if constexpr (std::is_floating_point_v<T>) {
    if (!value.is_number()) {
      throw_json_type(origin, key, value);
    }
  }
  try {
    return value.get<T>();
  } catch (const nlohmann::json::exception&) {
    throw_json_type(origin, key, value);
  }
}

template <class T>
T json_get_or(const Json& object, const char* key, T fallback, std::string_view origin) {
  if (!object.is_object() || !object.contains(key) || object.at(key).is_null()) {
    return fallback;
  }
  return json_get<T>(object, key, origin);
}

}  // namespace fastwan
