#include "base/json.h"

#include <set>
#include <vector>

#include "base/files.h"

namespace fastwan {
namespace {

// Builds the value while watching depth and duplicate keys.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view origin, const JsonLimits& limits) : origin_(origin), limits_(limits) {}

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t&) override { return add(value); }
  bool string(string_t& value) override { return add(value); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second) {
      throw InvalidInput(Code::kDuplicateKey,
                         str(origin_, ": key \"", escape_control(name), "\" occurs twice"));
    }
    key_ = name;
    return true;
  }

  bool parse_error(std::size_t position,
                   const std::string&,
                   const nlohmann::json::exception& e) override {
    std::string reason = e.what();
    const std::size_t colon = reason.find(": ", reason.find(']'));
    reason = colon == std::string::npos ? reason : reason.substr(colon + 2);
    throw InvalidInput(Code::kBadJson, str(origin_, ": not valid JSON at byte ", position, ": ",
                                           escape_control(reason)));
  }

  Json take() { return std::move(root_); }

 private:
  bool add(Json value) {
    place(std::move(value));
    return true;
  }

  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    // Keys are known to be new: append without the search that operator[] would make.
    auto& object = parent.get_ref<Json::object_t&>();
    object.emplace_back(key_, std::move(value));
    return &object.back().second;
  }

  bool open(Json value) {
    if (static_cast<int>(open_.size()) >= limits_.max_depth) {
      throw InvalidInput(Code::kBadJson, str(origin_, ": nested deeper than ", limits_.max_depth));
    }
    open_.push_back(place(std::move(value)));
    keys_.emplace_back();
    return true;
  }

  bool close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  std::string origin_;
  JsonLimits limits_;
  Json root_;
  // Pointers stay valid: a parent grows only while none of its children is open.
  std::vector<Json*> open_;
  std::vector<std::set<std::string>> keys_;
  std::string key_;
};

const char* type_word(const Json& value) {
  return value.type_name();
}

}  // namespace

Json parse_json(std::string_view text, std::string_view origin, const JsonLimits& limits) {
  if (!is_valid_utf8(text)) {
    throw InvalidInput(Code::kNotUtf8, str(origin, ": not valid UTF-8"));
  }
  if (text.starts_with("\xEF\xBB\xBF")) {
    throw InvalidInput(Code::kBadJson, str(origin, ": starts with a byte order mark"));
  }
  Builder builder(origin, limits);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    throw InvalidInput(Code::kBadJson, str(origin, ": not valid JSON"));
  }
  return builder.take();
}

Json read_json_file(const std::string& file) {
  return parse_json(read_file(file), file);
}

std::string dump_json(const Json& value) {
  return value.dump(2, ' ', false, Json::error_handler_t::replace);
}

void throw_json_type(std::string_view origin, const char* key, const Json& got) {
  throw InvalidInput(Code::kBadJson,
                     str(origin, ": \"", key, "\" has the wrong type: ", type_word(got)));
}

void throw_json_missing(std::string_view origin, const char* key) {
  throw InvalidInput(Code::kBadJson, str(origin, ": \"", key, "\" is missing"));
}

}  // namespace fastwan
