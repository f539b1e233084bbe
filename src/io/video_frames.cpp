#include "io/video_frames.h"

#include <cerrno>
#include <iomanip>
#include <system_error>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/text.h"
#include "io/descriptor.h"
#include "io/video_sinks.h"

namespace fastwan::io {
namespace {

Path folder_of(const Path& file) {
  return file.has_parent_path() ? file.parent_path() : Path(".");
}

void sync(const Path& file) {
  const Descriptor opened(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!opened.is_open()) {
    throw_io_error(errno, file, "open");
  }
  if (::fsync(opened.get()) != 0 && errno != EINVAL) {
    throw_io_error(errno, file, "fsync");
  }
}

class PngFrames final : public VideoSink {
 public:
  explicit PngFrames(const SinkRequest& request)
      : frames_(request.to),
        size_(request.format.size),
        metadata_(request.format.metadata),
        stop_(request.stop) {}

  void write_frame(std::span<const uint8_t> rgb) override {
    invariant(static_cast<int64_t>(rgb.size()) == size_.width * size_.height * 3,
              "a frame has width * height * 3 bytes");
    if (stop_.stop_requested()) {
      throw Stopped();
    }
    const Image image{size_.width, size_.height, {rgb.begin(), rgb.end()}};
    write_png(frames_.frame(num_frames_ + 1), image, metadata_);
    ++num_frames_;
  }

  void finish() override {
    invariant(num_frames_ > 0, "a video has at least one frame");
    frames_.commit(num_frames_);
  }

 private:
  FrameFolder frames_;
  FrameSize size_;
  std::string metadata_;
  std::stop_token stop_;
  int64_t num_frames_ = 0;
};

}  // namespace

FrameFolder::FrameFolder(Path to)
    : to_(std::move(to)),
      folder_(folder_of(to_) / str(".", to_.stem().string(), ".", ::getpid(), ".part")) {
  if (::mkdir(folder_.c_str(), 0755) != 0 && errno != EEXIST) {
    throw_io_error(errno, folder_, "create folder");
  }
}

FrameFolder::~FrameFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

Path FrameFolder::frame(int64_t number) const {
  return folder_ / str(std::setw(6), std::setfill('0'), number, to_.extension().string());
}

std::string FrameFolder::pattern() const {
  return replace_all((folder_ / "").string(), "%", "%%") + "%06d" +
         replace_all(to_.extension().string(), "%", "%%");
}

void FrameFolder::commit(int64_t num_frames) {
  std::vector<Path> placed;
  try {
    for (int64_t number = 1; number <= num_frames; ++number) {
      const Path target = num_frames == 1 ? to_ : numbered_frame(to_, number);
      sync(frame(number));
      if (::rename(frame(number).c_str(), target.c_str()) != 0) {
        throw_io_error(errno, target, "rename to");
      }
      placed.push_back(target);
    }
    sync(folder_of(to_));
  } catch (...) {
    std::error_code ignored;
    for (const Path& target : placed) {
      std::filesystem::remove(target, ignored);
    }
    throw;
  }
}

std::unique_ptr<VideoSink> open_png_frames(SinkRequest request) {
  return std::make_unique<PngFrames>(request);
}

}  // namespace fastwan::io
