#include "eval/video_set.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <map>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>

#include "base/check.h"
#include "base/shape.h"
#include "base/text.h"
#include "io/image.h"
#include "io/media.h"
#include "io/safetensors.h"
#include "io/video_reader.h"
#include "models/checkpoint.h"

namespace fastwan::eval {
namespace {

enum class Kind { kVideo, kTensor, kImages };

struct Entry {
  std::string name;
  Path path;
  Kind kind = Kind::kVideo;
  std::optional<int64_t> row;   // of a file of many
  std::optional<int64_t> code;  // procedural attributes
};

bool has_extension(const Path& file, std::initializer_list<std::string_view> extensions) {
  const std::string extension = to_lower(file.extension().string());
  return std::find(extensions.begin(), extensions.end(), extension) != extensions.end();
}
bool is_video(const Path& file) {
  return has_extension(file, {".mp4", ".mov", ".mkv", ".webm"});
}
bool is_picture(const Path& file) {
  return has_extension(file, {".png", ".jpg", ".jpeg"});
}
bool is_tensor_file(const Path& file) {
  return has_extension(file, {".safetensors"});
}

// Files and folders in it, by name; hidden ones left out.
std::vector<Path> list(const Path& folder) {
  std::vector<Path> found;
  for (const auto& item : std::filesystem::directory_iterator(folder)) {
    if (!item.path().filename().string().starts_with('.')) {
      found.push_back(item.path());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<Path> pictures_of(const Path& folder) {
  std::vector<Path> found = list(folder);
  std::erase_if(found, [](const Path& file) { return !is_picture(file); });
  return found;
}

std::string numbered(int64_t row) {
  std::string digits = std::to_string(row);
  constexpr std::size_t kDigits = 6;  // names sort as numbers do
  return std::string(kDigits - std::min(kDigits, digits.size()), '0') + digits;
}

io::TensorInfo frames_of(const io::SafetensorsFile& file) {
  const auto found = file.find("frames");
  if (!found || (found->shape.size() != 4 && found->shape.size() != 5)) {
    throw InvalidInput(Code::kBadTensor,
                       str(file.path().string(),
                           ": wants `frames` [F, 3, P, Q] or "
                           "[N, F, 3, P, Q], has ",
                           found ? format_shape(found->shape) : "no such tensor"));
  }
  if (std::any_of(found->shape.begin() + (found->shape.size() == 5 ? 1 : 0), found->shape.end(),
                  [](int64_t side) { return side == 0; })) {
    throw InvalidInput(Code::kBadTensor, str(file.path().string(), ": `frames` ",
                                             format_shape(found->shape), " hold nothing"));
  }
  return *found;
}

std::vector<int64_t> codes_of(const io::SafetensorsFile& file, int64_t count) {
  const auto found = file.find("codes");
  if (!found || count == 0) {
    return {};
  }
  const at::Tensor stored = models::read_tensor(file, *found);
  const at::Tensor codes = stored.to(at::kLong).contiguous();
  if (!at::isIntegralType(stored.scalar_type(), /*includeBool=*/false) || codes.dim() != 1 ||
      codes.numel() != count || codes.min().item<int64_t>() < 0 ||
      codes.max().item<int64_t>() >= data::shapes::kNumCodes) {
    throw InvalidInput(Code::kBadTensor,
                       str(file.path().string(), ": `codes` must be whole numbers [", count,
                           "] from 0 to ", data::shapes::kNumCodes - 1));
  }
  return {codes.const_data_ptr<int64_t>(), codes.const_data_ptr<int64_t>() + count};
}

// The clips of one safetensors file; `prefix` before the number of each of many.
void add_tensor_file(const Path& path,
                     const std::string& name,
                     const std::string& prefix,
                     std::vector<Entry>& entries) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(path);
  const std::vector<int64_t> shape = frames_of(file).shape;
  const int64_t count = shape.size() == 5 ? shape[0] : 1;
  const std::vector<int64_t> codes = codes_of(file, count);
  for (int64_t row = 0; row < count; ++row) {
    Entry entry{.name = name, .path = path, .kind = Kind::kTensor};
    if (shape.size() == 5) {
      entry.name = prefix + numbered(row);
      entry.row = row;
    }
    if (!codes.empty()) {
      entry.code = codes[static_cast<std::size_t>(row)];
    }
    entries.push_back(std::move(entry));
  }
}

std::vector<Entry> find_entries(const Path& where) {
  std::vector<Entry> entries;
  if (!std::filesystem::exists(where)) {
    throw IoError(Code::kNotFound, str(where.string(), " does not exist"));
  }
  if (!std::filesystem::is_directory(where)) {
    if (is_tensor_file(where)) {
      add_tensor_file(where, where.stem().string(), "", entries);
    } else if (is_video(where)) {
      entries.push_back({.name = where.stem().string(), .path = where});
    }
  } else {
    for (const Path& path : list(where)) {
      const std::string name = path.stem().string();
      if (is_tensor_file(path)) {
        add_tensor_file(path, name, name + "/", entries);
      } else if (is_video(path)) {
        entries.push_back({.name = name, .path = path});
      } else if (std::filesystem::is_directory(path) && !pictures_of(path).empty()) {
        entries.push_back({.name = path.filename().string(), .path = path, .kind = Kind::kImages});
      }
    }
  }
  if (entries.empty()) {
    throw InvalidInput(Code::kBadMedia,
                       str(where.string(),
                           ": no video here. Wanted .mp4, .mov, .mkv, .webm, "
                           ".safetensors with `frames`, or folders of .png frames"));
  }
  return entries;
}

// [height, width, 3] bytes -> [3, P, Q] bytes.
at::Tensor picture(const std::vector<uint8_t>& rgb, int64_t height, int64_t width) {
  const at::Tensor bytes = at::from_blob(const_cast<uint8_t*>(rgb.data()),  // only read
                                         {height, width, 3}, at::kByte);
  return bytes.permute({2, 0, 1}).contiguous();
}

// [3, P, Q] bytes each -> [F, 3, P, Q] in [0, 1]; four times as large, so made once.
at::Tensor to_unit(const std::vector<at::Tensor>& pictures) {
  return at::stack(pictures).to(at::kFloat).div_(255);
}

at::Tensor read_rows(const io::SafetensorsFile& file,
                     const io::TensorInfo& tensor,
                     std::optional<int64_t> row) {
  std::vector<int64_t> shape = tensor.shape;
  int64_t count = 1;
  if (row) {
    count = shape[0];
    shape.erase(shape.begin());
  }
  at::Tensor out = at::empty(shape, models::scalar_type_of(tensor.dtype));
  const int64_t bytes = tensor.num_bytes() / count;
  file.read(tensor, row.value_or(0) * bytes,
            {static_cast<std::byte*>(out.mutable_data_ptr()), static_cast<std::size_t>(bytes)});
  return out;
}

at::Tensor read_tensor_clip(const Entry& entry) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(entry.path);
  const io::TensorInfo tensor = frames_of(file);
  const at::Tensor stored = read_rows(file, tensor, entry.row);
  Shapes shapes(entry.path.string());
  shapes.expect("frames", stored.sizes(), "F 3 P Q");
  if (stored.scalar_type() == at::kByte) {
    return stored.to(at::kFloat).div_(255);
  }
  constexpr double kRounding = 1e-3;  // of a decoder's last clamp in bf16
  if (!at::isFloatingType(stored.scalar_type()) || !at::isfinite(stored).all().item<bool>() ||
      stored.min().item<double>() < -kRounding || stored.max().item<double>() > 1 + kRounding) {
    throw InvalidInput(Code::kBadTensor, str(entry.path.string(), ": `frames` of ", entry.name,
                                             " must be bytes, or floats from 0 to 1"));
  }
  return stored.to(at::kFloat).clamp_(0, 1);
}

// Whether what is shown at `index` / `fps` is the stored frame `stored` or one before it; fps 0:
// all stored frames in turn.
bool is_due(int64_t index, double fps, int64_t stored, const io::VideoInfo& info) {
  constexpr double kRounding = 1e-6;  // of a frame: 24 / (24000 / 1001) and the like
  constexpr double kTick = 1e-3;      // matroska's: a frame may be written down so much too late
  if (fps == 0) {
    return index <= stored;
  }
  if (info.times.empty()) {
    return std::floor(static_cast<double>(index) * (info.fps / fps) + kRounding) <=
           static_cast<double>(stored);
  }
  // The last one is shown until the average rate has filled the whole.
  const auto next = static_cast<std::size_t>(stored + 1);
  const double until = next < info.times.size() ? info.times[next]
                                                : static_cast<double>(info.times.size()) / info.fps;
  return static_cast<double>(index) / fps + kTick < until;
}

}  // namespace

struct VideoSet::Impl {
  std::vector<Entry> entries;
  std::map<std::string, int64_t> by_name;
  VideoSetOptions options;
  std::optional<io::Ffmpeg> ffmpeg;

  at::Tensor read_video(const Entry& entry) const;
  at::Tensor read_images(const Entry& entry) const;
};

at::Tensor VideoSet::Impl::read_video(const Entry& entry) const {
  const io::VideoInfo info = io::probe_video(entry.path, *ffmpeg, options.stop);
  io::VideoReader reader(entry.path, info, *ffmpeg, options.stop);
  std::vector<at::Tensor> frames;
  std::vector<uint8_t> rgb;
  for (int64_t stored = 0; reader.read_frame(rgb); ++stored) {
    while (is_due(static_cast<int64_t>(frames.size()), options.fps, stored, info)) {
      frames.push_back(picture(rgb, info.size.height, info.size.width));
    }
  }
  if (frames.empty()) {
    throw InvalidInput(Code::kBadMedia, str(entry.path.string(), ": no frame could be read"));
  }
  return to_unit(frames);
}

at::Tensor VideoSet::Impl::read_images(const Entry& entry) const {
  std::vector<at::Tensor> frames;
  Shapes shapes(entry.path.string());
  for (const Path& file : pictures_of(entry.path)) {
    const io::Image image = io::read_image(file, *ffmpeg, options.stop);
    frames.push_back(picture(image.rgb, image.height, image.width));
    shapes.expect(file.filename().string(), frames.back().sizes(), "3 P Q");
  }
  return to_unit(frames);
}

VideoSet::VideoSet(const Path& where, const VideoSetOptions& options)
    : impl_(std::make_unique<Impl>()) {
  impl_->options = options;
  impl_->entries = find_entries(where);
  std::sort(impl_->entries.begin(), impl_->entries.end(),
            [](const Entry& a, const Entry& b) { return a.name < b.name; });
  bool needs_ffmpeg = false;
  for (std::size_t i = 0; i < impl_->entries.size(); ++i) {
    const Entry& entry = impl_->entries[i];
    if (!impl_->by_name.emplace(entry.name, static_cast<int64_t>(i)).second) {
      throw InvalidInput(Code::kBadMedia, str(where.string(), ": two videos are called ",
                                              escape_control(entry.name)));
    }
    needs_ffmpeg = needs_ffmpeg || entry.kind != Kind::kTensor;
  }
  if (needs_ffmpeg) {
    impl_->ffmpeg = io::open_ffmpeg(options.venvs);
  }
}

VideoSet::~VideoSet() = default;

int64_t VideoSet::size() const {
  return static_cast<int64_t>(impl_->entries.size());
}

const std::string& VideoSet::name(int64_t index) const {
  return impl_->entries[static_cast<std::size_t>(index)].name;
}

std::optional<int64_t> VideoSet::find(const std::string& name) const {
  const auto found = impl_->by_name.find(name);
  return found == impl_->by_name.end() ? std::nullopt : std::optional(found->second);
}

at::Tensor VideoSet::frames(int64_t index) const {
  const Entry& entry = impl_->entries[static_cast<std::size_t>(index)];
  switch (entry.kind) {
    case Kind::kVideo:
      return impl_->read_video(entry);
    case Kind::kTensor:
      return read_tensor_clip(entry);
    case Kind::kImages:
      return impl_->read_images(entry);
  }
  invariant(false, "every kind of video is read");
  return {};
}

std::optional<data::shapes::Attributes> VideoSet::wanted(int64_t index) const {
  const std::optional<int64_t> code = impl_->entries[static_cast<std::size_t>(index)].code;
  return code ? std::optional(data::shapes::attributes_of(*code)) : std::nullopt;
}

}  // namespace fastwan::eval
