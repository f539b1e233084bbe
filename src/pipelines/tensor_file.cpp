#include "pipelines/tensor_file.h"

#include <ATen/ops/isfinite.h>

#include "base/check.h"
#include "base/shape.h"
#include "base/text.h"
#include "models/checkpoint.h"

namespace fastwan::pipelines {

at::Tensor read_named(const io::SafetensorsFile& file,
                      const std::string& name,
                      const std::string& pattern) {
  const std::string where = file.path().string();
  const std::optional<io::TensorInfo> found = file.find(name);
  if (!found) {
    std::vector<std::string> names;
    for (const io::TensorInfo& tensor : file.tensors()) {
      names.push_back(escape_control(tensor.name));
    }
    constexpr std::size_t kMaxListed = 10;
    throw InvalidInput(Code::kBadTensor, str(where, ": no tensor \"", name, "\"; the file holds ",
                                             join_first(names, kMaxListed)));
  }
  Shapes shapes(where);
  shapes.expect(name, found->shape, pattern);
  const at::Tensor stored = models::read_tensor(file, *found);
  if (!at::isFloatingType(stored.scalar_type())) {
    throw InvalidInput(Code::kBadTensor,
                       str(where, ": tensor \"", name, "\" must be floating point, got ",
                           io::name_of(found->dtype)));
  }
  if (!at::isfinite(stored).all().item<bool>()) {
    throw InvalidInput(Code::kBadTensor,
                       str(where, ": tensor \"", name, "\" holds NaN or infinity"));
  }
  return stored.to(at::kFloat);
}

}  // namespace fastwan::pipelines
