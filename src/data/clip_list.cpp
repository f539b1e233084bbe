#include "data/clip_list.h"

#include <functional>
#include <map>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "base/text_file.h"

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

// An entry of a list: its place, for messages, and its path as written.
struct Entry {
  ClipInput clip;
  std::string name;
  std::string where;
};

Entry entry_of(const Json& entry,
               const std::function<Path(const Path&)>& place,
               const std::string& where) {
  if (!entry.is_object()) {
    throw_bad(where, "must be a JSON object");
  }
  const Json* path = find_any(entry, {"path", "video"});
  if (path == nullptr || !path->is_string() || path->get<std::string>().empty()) {
    throw_bad(where, "must name its video in \"path\"");
  }
  const Path name = path->get<std::string>();
  ClipInput clip{.id = Path(name).replace_extension().string(),
                 .video = place(name),
                 .caption = caption_of(entry, where)};
  if (const Json* fps = find_any(entry, {"fps"}); fps != nullptr && !fps->is_null()) {
    if (!fps->is_number() || !(fps->get<double>() > 0)) {
      throw_bad(where, "fps must be a number above 0");
    }
    clip.fps = fps->get<double>();
  }
  return {.clip = std::move(clip), .name = name.string(), .where = where};
}

// Ids and repetitions depend on the whole list. A whole name may again be what another entry is
// without its extension (a.mp4 and a.mp4.mov), so it goes on until no two are the same.
void settle_ids(std::vector<Entry>& entries) {
  std::map<Path, const Entry*> first_of;
  for (Entry& entry : entries) {
    const auto [first, is_new] = first_of.emplace(entry.clip.video.lexically_normal(), &entry);
    if (!is_new) {
      entry.clip.repeats = str(entry.where, ": ", escape_control(entry.name),
                               " comes twice, first in ", first->second->where);
    }
  }
  for (bool is_settled = false; !is_settled;) {
    std::map<std::string, int64_t> uses;
    for (const Entry& entry : entries) {
      uses[entry.clip.id] += entry.clip.repeats.empty() ? 1 : 0;
    }
    is_settled = true;
    for (Entry& entry : entries) {
      if (uses[entry.clip.id] > 1 && entry.clip.id != entry.name) {
        entry.clip.id = entry.name;
        is_settled = false;
      }
    }
  }
}

std::vector<ClipInput> checked(std::vector<ClipInput> clips, const std::string& where) {
  if (clips.empty()) {
    throw_bad(where, "holds no entry");
  }
  for (const ClipInput& clip : clips) {
    if (!is_valid_utf8(clip.caption) || !is_valid_utf8(clip.id)) {
      throw_bad(where, str("the entry ", escape_control(clip.id), " is not valid UTF-8"));
    }
  }
  return clips;
}

std::vector<ClipInput> clips_of(std::vector<Entry> entries, const std::string& where) {
  settle_ids(entries);
  std::vector<ClipInput> clips;
  for (Entry& entry : entries) {
    clips.push_back(std::move(entry.clip));
  }
  return checked(std::move(clips), where);
}

// `place`: of a path in the list.
std::vector<ClipInput> read_array(const Path& file, const std::function<Path(const Path&)>& place) {
  const std::string where = escape_control(file.string());
  const Json list = parse_json(read_file(file, kMaxListBytes), where);
  if (!list.is_array()) {
    throw_bad(where, "must be a JSON array");
  }
  std::vector<Entry> entries;
  for (std::size_t i = 0; i < list.size(); ++i) {
    entries.push_back(entry_of(list[i], place, str(where, ", entry ", i)));
  }
  return clips_of(std::move(entries), where);
}

}  // namespace

std::vector<ClipInput> read_merged(const Path& root) {
  return read_array(root / "videos2caption.json",
                    [&root](const Path& name) { return root / "videos" / name; });
}

std::vector<ClipInput> read_json(const Path& file) {
  return read_array(file, [folder = file.parent_path()](const Path& name) {
    const Path beside = folder / name, below = folder / "videos" / name;
    return !std::filesystem::exists(beside) && std::filesystem::exists(below) ? below : beside;
  });
}

std::vector<ClipInput> read_jsonl(const Path& file) {
  const std::string where = escape_control(file.string());
  const auto place = [folder = file.parent_path()](const Path& name) { return folder / name; };
  std::vector<Entry> entries;
  int64_t number = 0;
  for (const std::string& line : split(read_file(file, kMaxListBytes), '\n')) {
    const std::string here = str(where, ":", ++number);
    if (!trim(line).empty()) {
      entries.push_back(entry_of(parse_json(line, here), place, here));
    }
  }
  return clips_of(std::move(entries), where);
}

std::vector<ClipInput> read_prompts(const Path& file) {
  std::vector<ClipInput> clips;
  for (const std::string& line : split(read_text_file(file, kMaxListBytes), '\n')) {
    const std::string_view prompt = trim(line);
    if (!prompt.empty()) {
      clips.push_back({.id = str("prompt-", clips.size()), .caption = std::string(prompt)});
    }
  }
  return checked(std::move(clips), escape_control(file.string()));
}

}  // namespace fastwan::data
