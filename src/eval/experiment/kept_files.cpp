#include "eval/experiment/kept_files.h"

#include <filesystem>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::eval {
namespace {

constexpr std::size_t kShownDigits = 12;

struct Kept {
  Json numbers;
  std::string fingerprint;  // empty: it has none
};

Kept read_kept(const Path& file) {
  Json numbers = read_json_file(file.string());
  const Json fingerprint =
      numbers.is_object() ? numbers.value("fingerprint", Json("")) : Json(nullptr);
  if (!fingerprint.is_string()) {
    throw InvalidInput(Code::kBadJson,
                       str(file.string(), ": no numbers as they are kept here. Delete the file"));
  }
  return {.numbers = std::move(numbers), .fingerprint = fingerprint.get<std::string>()};
}

}  // namespace

KeptFiles::Place KeptFiles::under(const std::string& name) const {
  return {folder_ / (name + ".json"), sheets_ ? *sheets_ / (name + ".png") : Path()};
}

// The sheet first: where the second step is never taken, the numbers are still found.
void KeptFiles::move(const Place& from, const Place& to) {
  if (!from.sheet.empty() && std::filesystem::exists(from.sheet)) {
    std::filesystem::rename(from.sheet, to.sheet);
  }
  std::filesystem::rename(from.numbers, to.numbers);
}

void KeptFiles::make_room(const std::string& name, const std::string& fingerprint) const {
  const Place here = under(name);
  if (!std::filesystem::exists(here.numbers)) {
    return;
  }
  const std::string other = read_kept(here.numbers).fingerprint;
  if (other != fingerprint) {
    const std::string aside = name + "." + (other.empty() ? "none" : other.substr(0, kShownDigits));
    move(here, {folder_ / (aside + ".json"), folder_ / (aside + ".png")});
  }
}

std::optional<Json> KeptFiles::find(const std::string& name, const std::string& fingerprint) const {
  const Place here = under(name);
  if (std::filesystem::exists(here.numbers)) {
    Kept kept = read_kept(here.numbers);
    if (kept.fingerprint == fingerprint) {
      return std::move(kept.numbers);
    }
  }
  std::vector<Path> aside;
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
    const std::string file = entry.path().filename().string();
    if (file.starts_with(name + ".") && file.ends_with(".json") && entry.path() != here.numbers) {
      aside.push_back(entry.path());
    }
  }
  for (const Path& file : aside) {
    Kept kept = read_kept(file);
    if (kept.fingerprint == fingerprint) {
      make_room(name, fingerprint);
      move({file, Path(file).replace_extension(".png")}, here);
      return std::move(kept.numbers);
    }
  }
  return std::nullopt;
}

void KeptFiles::keep(const std::string& name, const Json& numbers, const io::Image* sheet) const {
  make_room(name, numbers.value("fingerprint", ""));
  const Place here = under(name);
  if (sheet != nullptr && sheets_) {
    io::write_png(here.sheet, *sheet);
  }
  write_durably(here.numbers, dump_json(numbers) + "\n");
}

}  // namespace fastwan::eval
