// `fastwan inspect`: tells what a path is, and prints it.
#include "cli/inspect.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <span>

#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/digest.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/hub_cache.h"
#include "cli/metadata.h"
#include "cli/options.h"
#include "io/media_metadata.h"

namespace fastwan::cli {
namespace {

constexpr std::array<std::string_view, 5> kWeights = {".safetensors", ".bin", ".pt", ".pth",
                                                      ".ckpt"};
constexpr std::array<std::string_view, 8> kMedia = {".mp4",  ".webm", ".mkv", ".gif",
                                                    ".webp", ".png",  ".jpg", ".jpeg"};

bool has_extension(const Path& path, std::span<const std::string_view> extensions) {
  return std::find(extensions.begin(), extensions.end(), to_lower(path.extension().string())) !=
         extensions.end();
}

Json describe(const Path& path) {
  if (std::filesystem::is_directory(path)) {
    return std::filesystem::exists(path / "model_index.json") ? describe_model(path)
                                                              : describe_weights(path);
  }
  return has_extension(path, kWeights) ? describe_weights(path) : describe_media(path);
}

// Every file below the path, so that two copies can be compared.
Json digests_of(const Path& path) {
  Json digests = Json::object();
  if (std::filesystem::is_regular_file(path)) {
    digests[path.filename().string()] = sha256_file(path);
    return digests;
  }
  std::vector<Path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
    if (entry.is_regular_file()) {
      files.push_back(entry.path());
    }
  }
  std::sort(files.begin(), files.end());
  for (const Path& file : files) {
    digests[std::filesystem::relative(file, path).string()] = sha256_file(file);
  }
  return digests;
}

}  // namespace

Json describe_media(const Path& file) {
  Json document = {{"kind", "media"}, {"path", file.string()}, {"metadata", nullptr}};
  if (const std::optional<std::string> text = io::read_media_metadata(file)) {
    document["metadata"] = parse_json(*text, file.string() + ": metadata");
    document["command"] = command_of(document["metadata"]);
  } else if (!has_extension(file, kMedia)) {
    throw InvalidInput(Code::kBadMedia,
                       str(escape_control(file.string()),
                           " is no model folder, no safetensors, and no video or picture of ours"));
  }
  return document;
}

int run_inspect(const Program&, const std::vector<std::string>& words) {
  CLI::App app("What is in a model folder, a weights file, a LoRA or a video", "inspect");
  std::string target;
  bool json = false;
  bool digest = false;
  app.add_option("path", target, "folder, file, or cached hub id (org/name)");
  app.add_flag("--json", json, "one JSON document");
  app.add_flag("--digest", digest, "sha256 of every file, all bytes read");
  if (!parse(app, prepare(words).words)) {
    return 0;
  }
  if (target.empty()) {
    throw InvalidInput(Code::kUsage, "inspect what? Give a folder or a file");
  }
  std::error_code ignored;
  const bool names_a_file = has_extension(target, kWeights) || has_extension(target, kMedia);
  if (names_a_file && !std::filesystem::exists(target, ignored)) {
    throw IoError(Code::kNotFound, str("inspect ", escape_control(target), ": no such file"));
  }
  const Path path = find_model(target, "", "inspect");
  Json document = describe(path);
  if (digest) {
    document["sha256"] = digests_of(path);
  }
  std::fputs((json ? dump_json(document) + "\n" : text_of(document)).c_str(), stdout);
  return 0;
}

}  // namespace fastwan::cli
