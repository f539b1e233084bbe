#include "pipelines/noise_file.h"

#include <utility>

#include "base/text.h"
#include "pipelines/tensor_file.h"

namespace fastwan::pipelines {
namespace {

class FileNoise final : public diffusion::NoiseSource {
 public:
  FileNoise(const Path& file,
            diffusion::NoiseShape shape,
            std::unique_ptr<diffusion::NoiseSource> otherwise,
            std::function<void(const std::string&)> on_note)
      : file_(io::SafetensorsFile::open(file)),
        pattern_(str("1 ", shape.channels, " ", shape.frames, " ", shape.height, " ", shape.width)),
        otherwise_(std::move(otherwise)),
        on_note_(std::move(on_note)) {}

  at::Tensor initial() override { return given("latents", otherwise_->initial()); }
  at::Tensor renoise(int64_t step) override {
    return given(str("renoise_", step), otherwise_->renoise(step));
  }

 private:
  at::Tensor given(const std::string& name, const at::Tensor& drawn) {
    if (file_.find(name)) {
      return read_named(file_, name, pattern_);
    }
    on_note_(str(file_.path().string(), " has no ", name, ": it comes from --rng"));
    return drawn;
  }

  io::SafetensorsFile file_;
  std::string pattern_;
  std::unique_ptr<diffusion::NoiseSource> otherwise_;
  std::function<void(const std::string&)> on_note_;
};

}  // namespace

std::unique_ptr<diffusion::NoiseSource> noise_from_file(
    const Path& file,
    diffusion::NoiseShape shape,
    std::unique_ptr<diffusion::NoiseSource> otherwise,
    std::function<void(const std::string&)> on_note) {
  return std::make_unique<FileNoise>(file, shape, std::move(otherwise), std::move(on_note));
}

}  // namespace fastwan::pipelines
