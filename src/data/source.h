// What training reads: examples by index, wherever they come from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace fastwan::data {

// One sample. Tensors lie in host memory unless the source says otherwise.
struct Example {
  std::string id;
  std::string caption;
  at::Tensor latents;  // [C, T, H, W] fp32, as the VAE's encoder gives them: not normalised;
                       // undefined in rows of text alone; bytes of pixels from a ShapesSource
  // A teacher's trajectory; undefined in rows without one. Its timesteps 1000 sigma fall, last 0.
  at::Tensor trajectory;            // [K + 1, C, T, H, W] fp32, normalised: as the sampler has them
  at::Tensor trajectory_timesteps;  // [K + 1] fp32
  at::Tensor text;                  // [L, D] fp32, encoder output at the prompt's true length
};

class Source {
 public:
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;
  virtual ~Source() = default;

  virtual int64_t size() const = 0;
  // 0 <= index < size(); may be called from several threads. What it returns may share memory with
  // the source and is not to be written. Errors name the place of the row.
  virtual Example get(int64_t index) const = 0;
  // Where an example is stored, "a.parquet, row 3"; empty where there is no such place.
  virtual std::string place(int64_t /*index*/) const { return ""; }
  // Tells data sets apart: a run resumes only on the same one.
  virtual std::string digest() const = 0;
};

// Examples that are there already.
class MemorySource final : public Source {
 public:
  explicit MemorySource(std::vector<Example> examples) : examples_(std::move(examples)) {}

  int64_t size() const override { return static_cast<int64_t>(examples_.size()); }
  Example get(int64_t index) const override;
  // sha256 over all ids, captions and shapes, and over the bytes of the first 64 examples.
  std::string digest() const override;

 private:
  std::vector<Example> examples_;
};

}  // namespace fastwan::data
