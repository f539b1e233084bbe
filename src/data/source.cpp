#include "data/source.h"

#include <algorithm>

#include "base/check.h"
#include "base/digest.h"
#include "base/shape.h"
#include "base/text.h"

namespace fastwan::data {
namespace {

constexpr std::size_t kHashedExamples =
    64;  // a pool of gigabytes must not be read to tell its name

void add_bytes(Sha256& digest, const at::Tensor& tensor) {
  if (tensor.defined()) {
    const at::Tensor dense = tensor.cpu().contiguous();
    digest.update({static_cast<const std::byte*>(dense.const_data_ptr()), dense.nbytes()});
  }
}

std::string shape_text(const at::Tensor& tensor) {
  return tensor.defined() ? format_shape({tensor.sizes().data(), tensor.sizes().size()}) : "none";
}

}  // namespace

Example MemorySource::get(int64_t index) const {
  invariant(index >= 0 && index < size(), "an example's index is inside its source");
  return examples_[static_cast<std::size_t>(index)];
}

std::string MemorySource::digest() const {
  Sha256 digest;
  for (const Example& example : examples_) {
    digest.update(str(example.id, '\0', example.caption, '\0', shape_text(example.latents),
                      shape_text(example.text), '\n'));
  }
  for (std::size_t i = 0; i < std::min(kHashedExamples, examples_.size()); ++i) {
    add_bytes(digest, examples_[i].latents);
    add_bytes(digest, examples_[i].trajectory);
    add_bytes(digest, examples_[i].trajectory_timesteps);
    add_bytes(digest, examples_[i].text);
  }
  return digest.hex();
}

}  // namespace fastwan::data
