#include "data/clip_list.h"

#include <set>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"

namespace fastwan::data {
namespace {

constexpr int64_t kMaxListBytes = int64_t{1} << 30;

[[noreturn]] void throw_bad(const std::string& where, const std::string& what) {
  throw InvalidInput(Code::kBadDataset, str(where, ": ", what));
}

// The value under the first of `keys` that is there.
const Json* find_any(const Json& entry, std::initializer_list<const char*> keys) {
  for (const char* key : keys) {
    if (entry.contains(key)) {
      return &entry.at(key);
    }
  }
  return nullptr;
}

std::string caption_of(const Json& entry, const std::string& where) {
  const Json* caption = find_any(entry, {"cap", "caption"});
  if (caption != nullptr && caption->is_array() && !caption->empty()) {
    caption = &caption->front();
  }
  if (caption == nullptr || caption->is_null() || (caption->is_array() && caption->empty())) {
    return "";
  }
  if (!caption->is_string()) {
    throw_bad(where, "the caption must be a string or a list of strings");
  }
  return caption->get<std::string>();
}

ClipInput clip_of(const Json& entry, const Path& folder, const std::string& where) {
  if (!entry.is_object()) {
    throw_bad(where, "must be a JSON object");
  }
  const Json* path = find_any(entry, {"path", "video"});
  if (path == nullptr || !path->is_string() || path->get<std::string>().empty()) {
    throw_bad(where, "must name its video in \"path\"");
  }
  const Path name = path->get<std::string>();
  ClipInput clip{.id = Path(name).replace_extension().string(),
                 .video = folder / name,
                 .caption = caption_of(entry, where)};
  if (const Json* fps = find_any(entry, {"fps"}); fps != nullptr && !fps->is_null()) {
    if (!fps->is_number() || !(fps->get<double>() > 0)) {
      throw_bad(where, "fps must be a number above 0");
    }
    clip.fps = fps->get<double>();
  }
  return clip;
}

std::vector<ClipInput> checked(std::vector<ClipInput> clips, const std::string& where) {
  if (clips.empty()) {
    throw_bad(where, "holds no entry");
  }
  std::set<std::string_view> ids;
  for (const ClipInput& clip : clips) {
    if (!ids.insert(clip.id).second) {
      throw_bad(where, str(escape_control(clip.id), " comes twice"));
    }
    if (!is_valid_utf8(clip.caption) || !is_valid_utf8(clip.id)) {
      throw_bad(where, str("the entry ", escape_control(clip.id), " is not valid UTF-8"));
    }
  }
  return clips;
}

}  // namespace

std::vector<ClipInput> read_merged(const Path& root) {
  const Path file = root / "videos2caption.json";
  const std::string where = escape_control(file.string());
  const Json list = parse_json(read_file(file, kMaxListBytes), where);
  if (!list.is_array()) {
    throw_bad(where, "must be a JSON array");
  }
  std::vector<ClipInput> clips;
  for (std::size_t i = 0; i < list.size(); ++i) {
    clips.push_back(clip_of(list[i], root / "videos", str(where, ", entry ", i)));
  }
  return checked(std::move(clips), where);
}

std::vector<ClipInput> read_jsonl(const Path& file) {
  const std::string where = escape_control(file.string());
  std::vector<ClipInput> clips;
  int64_t number = 0;
  for (const std::string& line : split(read_file(file, kMaxListBytes), '\n')) {
    const std::string here = str(where, ":", ++number);
    if (!trim(line).empty()) {
      clips.push_back(clip_of(parse_json(line, here), file.parent_path(), here));
    }
  }
  return checked(std::move(clips), where);
}

std::vector<ClipInput> read_prompts(const Path& file) {
  std::vector<ClipInput> clips;
  for (const std::string& line : split(read_file(file, kMaxListBytes), '\n')) {
    const std::string_view prompt = trim(line);
    if (!prompt.empty()) {
      clips.push_back({.id = str("prompt-", clips.size()), .caption = std::string(prompt)});
    }
  }
  return checked(std::move(clips), escape_control(file.string()));
}

}  // namespace fastwan::data
