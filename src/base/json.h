// The JSON front: nlohmann-json with limits. Nothing else parses JSON.
#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/check.h"

namespace fastwan {

using Json = nlohmann::ordered_json;

struct JsonLimits {
  int max_depth = 64;
};

// Strict: UTF-8, no duplicate keys, no trailing text, bounded depth. `origin` names the source in
// messages:
//   error[bad_json]: transformer/config.json:3:14: ...
// Duplicate keys are Code::kDuplicateKey and name the key.
Json parse_json(std::string_view text, std::string_view origin, const JsonLimits& limits = {});
Json read_json_file(const std::string& file);

// Typed access with a message that names origin and key. The first throws when the key is absent or
// has another type.
template <class T>
T json_get(const Json& object, const char* key, std::string_view origin);
// Absent or null: `fallback`. Another type: throws.
template <class T>
T json_get_or(const Json& object, const char* key, T fallback, std::string_view origin);

// Pretty text with two spaces, invalid UTF-8 replaced.
std::string dump_json(const Json& value);

}  // namespace fastwan

#include "base/json_inl.h"
