#include "io/parquet.h"

#include <algorithm>
#include <array>
#include <utility>

#include <dlfcn.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::io {
namespace {

using enum ColumnKind;

constexpr std::array<std::pair<const char*, Dtype>, 6> kDtypeWords = {{{"float32", Dtype::kF32},
                                                                       {"float16", Dtype::kF16},
                                                                       {"bfloat16", Dtype::kBf16},
                                                                       {"float64", Dtype::kF64},
                                                                       {"uint8", Dtype::kU8},
                                                                       {"int64", Dtype::kI64}}};

// Lies beside the code that asks, or in lib beside its folder: build/release/{bin,lib}, an
// installed tree, a wheel.
Path library_path() {
  Dl_info here{};
  ::dladdr(reinterpret_cast<const void*>(&library_path), &here);
  const Path folder =
      std::filesystem::absolute(here.dli_fname == nullptr ? "" : here.dli_fname).parent_path();
  const Path beside = folder / "libfastwan_parquet.so";
  return std::filesystem::exists(beside) ? beside
                                         : folder.parent_path() / "lib" / "libfastwan_parquet.so";
}

void* symbol(const char* name) {
  // Opened once and never closed.
  static void* const library = [] {
    void* opened = ::dlopen(library_path().c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened == nullptr) {
      throw IoError(Code::kMissingLibrary,
                    str("cannot open ", ::dlerror(),
                        ". Parquet files need it; `make setup build` puts it beside the program"));
    }
    return opened;
  }();
  void* found = ::dlsym(library, name);
  if (found == nullptr) {
    throw IoError(Code::kMissingLibrary,
                  str("libfastwan_parquet.so has no ", name,
                      "; it is of another version than this program. Build again"));
  }
  return found;
}

std::vector<Column> make_columns(RowSchema schema) {
  const std::vector<Column> media = {
      {"file_name", kText}, {"caption", kText}, {"media_type", kText}};
  std::vector<Column> columns = {{"id", kText}};
  const auto add = [&columns](const std::vector<Column>& more) {
    columns.insert(columns.end(), more.begin(), more.end());
  };
  const bool has_latents = schema == RowSchema::kT2v || schema == RowSchema::kI2v;
  if (has_latents) {
    add({{"vae_latent", kTensor}});
  }
  add({{"text_embedding", kTensor}});
  if (schema == RowSchema::kI2v) {
    add({{"clip_feature", kTensor}, {"first_frame_latent", kTensor}, {"pil_image", kTensor}});
  }
  if (schema == RowSchema::kTextOnly) {
    add({{"caption", kText}});
    return columns;
  }
  if (schema == RowSchema::kOdeTrajectoryTextOnly) {
    add({{"trajectory_latents", kTensor}, {"trajectory_timesteps", kTensor}});
  }
  add(media);
  if (has_latents) {
    add({{"width", kInteger},
         {"height", kInteger},
         {"num_frames", kInteger},
         {"duration_sec", kReal},
         {"fps", kReal}});
  }
  return columns;
}

}  // namespace

const char* name_of(RowSchema schema) {
  switch (schema) {
    case RowSchema::kT2v:
      return "t2v";
    case RowSchema::kI2v:
      return "i2v";
    case RowSchema::kTextOnly:
      return "text_only";
    case RowSchema::kOdeTrajectoryTextOnly:
      return "ode_trajectory_text_only";
  }
  return "?";
}

const std::vector<Column>& columns_of(RowSchema schema) {
  static const std::array<std::vector<Column>, 4> all = {
      make_columns(RowSchema::kT2v), make_columns(RowSchema::kI2v),
      make_columns(RowSchema::kTextOnly), make_columns(RowSchema::kOdeTrajectoryTextOnly)};
  return all.at(static_cast<std::size_t>(schema));
}

std::optional<Dtype> dtype_of_word(std::string_view word) {
  if (word.starts_with("torch.")) {
    word.remove_prefix(6);
  }
  for (const auto& [name, dtype] : kDtypeWords) {
    if (word == name) {
      return dtype;
    }
  }
  return std::nullopt;
}

const char* word_of(Dtype dtype) {
  for (const auto& [name, known] : kDtypeWords) {
    if (known == dtype) {
      return name;
    }
  }
  invariant(false, "a stored tensor's dtype has a word");
  return "";
}

std::vector<Path> parquet_files(const Path& folder) {
  if (std::filesystem::is_regular_file(folder)) {
    return {folder};
  }
  if (!std::filesystem::is_directory(folder)) {
    throw IoError(Code::kNotFound, str("no such folder: ", escape_control(folder.string())));
  }
  std::vector<Path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(
           folder, std::filesystem::directory_options::follow_directory_symlink)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_regular_file() && entry.path().extension() == ".parquet" &&
        !name.starts_with('.')) {
      files.push_back(entry.path());
    }
  }
  if (files.empty()) {
    throw InvalidInput(Code::kBadDataset,
                       str(escape_control(folder.string()), " holds no .parquet file"));
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::unique_ptr<RowReader> open_rows(std::vector<Path> files, RowReaderOptions options) {
  static const auto open = reinterpret_cast<OpenRowsFunction>(symbol("fastwan_open_rows"));
  return open(std::move(files), std::move(options));
}

std::unique_ptr<RowWriter> create_rows(const Path& to, const RowWriterOptions& options) {
  static const auto create = reinterpret_cast<CreateRowsFunction>(symbol("fastwan_create_rows"));
  return create(to, options);
}

}  // namespace fastwan::io
