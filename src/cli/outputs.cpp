#include "cli/outputs.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "config/assign.h"
#include "io/video.h"

namespace fastwan::cli {
namespace {

constexpr std::size_t kMaxNameCharacters = 100;
// NAME_MAX of Linux file systems, less what a number and the temporary file's ending add.
constexpr std::size_t kMaxNameBytes = 235;
constexpr std::array<std::string_view, 7> kExtensions = {".mp4", ".webm", ".gif",        ".webp",
                                                         ".png", ".jpg",  ".safetensors"};

void check_extension(const Path& file) {
  const std::string extension = to_lower(file.extension().string());
  if (std::find(kExtensions.begin(), kExtensions.end(), extension) == kExtensions.end()) {
    throw InvalidInput(
        Code::kBadValue,
        str("--output must end in .mp4, .webm, .gif, .webp, .png, .jpg or .safetensors, got ",
            escape_control(file.string())));
  }
  const std::string name = file.filename().string();
  if (name.size() > kMaxNameBytes) {
    throw InvalidInput(Code::kBadValue,
                       str("--output: a file's name has at most ", kMaxNameBytes, " bytes, got ",
                           name.size(), ": ", escape_control(name)));
  }
}

void check_free(const Path& file, bool overwrite) {
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) {
    throw IoError(Code::kExists, str(file.string(), " is a folder; name a file in it"));
  }
  if (!overwrite && std::filesystem::exists(file, ignored)) {
    throw IoError(Code::kExists,
                  str(escape_control(file.string()), " exists. Give --overwrite or another name"));
  }
}

// One frame becomes `file` itself, more become numbered files beside it.
void check_video_free(const Path& file, bool overwrite) {
  check_free(file, overwrite);
  check_free(io::video_files(file, /*num_frames=*/2).front(), overwrite);
}

Path numbered(const Path& file, std::size_t number) {
  return file.parent_path() / str(file.stem().string(), "_", number, file.extension().string());
}

}  // namespace

std::string file_name_of(const std::string& prompt) {
  constexpr std::string_view kForbidden = "\\/:*?\"<>|";
  std::string out;
  std::size_t characters = 0;
  bool last_was_space = false;
  for (std::size_t i = 0; i < prompt.size();) {
    std::size_t length = 1;
    while (i + length < prompt.size() &&
           (static_cast<unsigned char>(prompt[i + length]) & 0xC0) == 0x80) {
      ++length;
    }
    if (characters++ == kMaxNameCharacters) {
      break;
    }
    const auto first = static_cast<unsigned char>(prompt[i]);
    const bool is_space = first <= ' ' || first == 0x7F;
    if (is_space) {
      out += last_was_space ? "" : " ";
    } else if (kForbidden.find(prompt[i]) == std::string_view::npos) {
      out += prompt.substr(i, length);
    }
    last_was_space = is_space;
    i += length;
  }
  const std::size_t begin = out.find_first_not_of(". ");
  if (begin == std::string::npos) {
    return "video";
  }
  return out.substr(begin, out.find_last_not_of(". ") - begin + 1);
}

std::vector<Path> choose_outputs(const config::Generate& settings,
                                 const std::vector<std::string>& prompts) {
  const auto per_prompt = static_cast<std::size_t>(*settings.num_videos_per_prompt);
  const std::size_t count = prompts.size() * per_prompt;
  std::vector<Path> outputs;
  if (settings.output.is_set) {
    if (settings.output_path.is_set || settings.output_video_name.is_set) {
      throw InvalidInput(Code::kConflict,
                         "--output names the file; --output-path and --output-video-name belong to "
                         "names made for you");
    }
    const Path file = *settings.output;
    check_extension(file);
    require_writable_folder(file.parent_path());
    for (std::size_t i = 0; i < count; ++i) {
      outputs.push_back(i == 0 ? file : numbered(file, i));
      check_video_free(outputs.back(), *settings.overwrite);
    }
    return outputs;
  }
  const Path folder = settings.output_path.is_set ? Path(*settings.output_path) : Path(".");
  require_writable_folder(folder);
  std::set<Path> taken;
  for (std::size_t i = 0; i < count; ++i) {
    const int64_t seed = *settings.seed + static_cast<int64_t>(i % per_prompt);
    const std::string stem = settings.output_video_name.is_set
                                 ? file_name_of(*settings.output_video_name)
                                 : str(file_name_of(prompts[i / per_prompt]), "-", seed);
    const Path wanted = folder / (stem + ".mp4");
    Path file = wanted;
    std::error_code ignored;
    // A made-up name never replaces a file: it gets a number.
    for (std::size_t number = 1;
         taken.contains(file) || (!*settings.overwrite && std::filesystem::exists(file, ignored));
         ++number) {
      file = numbered(wanted, number);
    }
    taken.insert(file);
    outputs.push_back(file);
  }
  return outputs;
}

namespace {

struct SideFlag {
  const char* flag;
  const config::Setting<std::string>& setting;
  std::string_view extension;
};

// One path a video, checked; none when the flag is not given.
std::vector<Path> side_paths(const SideFlag& side, std::size_t count, bool overwrite) {
  std::vector<Path> out;
  if (!side.setting.is_set) {
    return out;
  }
  const Path file = *side.setting;
  if (to_lower(file.extension().string()) != side.extension) {
    throw InvalidInput(Code::kBadValue, str(side.flag, " must end in ", side.extension, ", got ",
                                            escape_control(file.string())));
  }
  require_writable_folder(file.parent_path());
  for (std::size_t i = 0; i < count; ++i) {
    out.push_back(i == 0 ? file : numbered(file, i));
    check_free(out.back(), overwrite);
  }
  return out;
}

// clip.mp4 -> clip.png; frames that are images themselves keep their name.
Path sheet_beside(const Path& video) {
  const bool is_image = video.extension() == ".png" || video.extension() == ".jpg";
  return video.parent_path() / str(video.stem().string(), is_image ? "_sheet.png" : ".png");
}

}  // namespace

std::vector<SideFiles> choose_side_outputs(const config::Generate& settings,
                                           const std::vector<Path>& outputs) {
  const bool overwrite = *settings.overwrite;
  const auto paths = [&](const char* flag, const config::Setting<std::string>& setting) {
    return side_paths({flag, setting, ".safetensors"}, outputs.size(), overwrite);
  };
  const std::vector<Path> latents = paths("--save-latents", settings.save_latents);
  const std::vector<Path> embeds = paths("--save-embeds", settings.save_embeds);
  const std::vector<Path> frames = paths("--save-frames", settings.save_frames);
  side_paths({"--report", settings.report, ".json"}, 1, overwrite);
  std::vector<SideFiles> out(outputs.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const auto at = [i](const std::vector<Path>& all) { return all.empty() ? Path() : all[i]; };
    out[i] = {.contact_sheet = {},
              .latents = at(latents),
              .embeds = at(embeds),
              .frames = at(frames),
              .sheet = {}};
    if (settings.contact_sheet.is_set) {
      out[i].sheet = parse_grid(*settings.contact_sheet);
      out[i].contact_sheet = sheet_beside(outputs[i]);
      check_free(out[i].contact_sheet, overwrite);
    }
  }
  return out;
}

Grid parse_grid(const std::string& text) {
  const std::vector<std::string> parts = split(text, 'x');
  if (parts.size() != 2) {
    config::throw_bad_value("--contact-sheet", "columns x rows as 4x4", text);
  }
  constexpr config::Range kSide{1, 64};
  return {config::to_int(parts[0], kSide, "--contact-sheet columns"),
          config::to_int(parts[1], kSide, "--contact-sheet rows")};
}

}  // namespace fastwan::cli
