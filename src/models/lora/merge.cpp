#include <algorithm>
#include <filesystem>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>

#include "base/check.h"
#include "base/shape.h"
#include "base/text.h"
#include "models/checkpoint.h"
#include "models/layout/tensors.h"
#include "models/lora.h"

namespace fastwan::models {
namespace {

constexpr int64_t kMaxRank = 1024;
constexpr std::size_t kMaxListed = 10;

using Entry = io::WeightFiles::Entry;

// The tensors that a file holds for one module.
struct Parts {
  std::optional<Entry> down, up, alpha, diff, diff_bias;
  std::string key;  // one of them, for messages
};

[[noreturn]] void refuse(const Path& file, const std::string& what) {
  throw InvalidInput(Code::kLoraMismatch, str(file.string(), ": ", what));
}

std::optional<Entry>& part_of(Parts& parts, layout::LoraPart part) {
  switch (part) {
    case layout::LoraPart::kDown:
      return parts.down;
    case layout::LoraPart::kUp:
      return parts.up;
    case layout::LoraPart::kAlpha:
      return parts.alpha;
    case layout::LoraPart::kDiff:
      return parts.diff;
    case layout::LoraPart::kDiffBias:
      return parts.diff_bias;
  }
  return parts.diff;
}

// A tensor of the file, finite, as fp32.
at::Tensor read_fp32(const Entry& entry) {
  at::Tensor out = at::empty(entry.tensor->shape, at::kFloat);
  const at::Tensor flat = out.view({-1});
  read_in_parts(entry, [&flat](int64_t first, const at::Tensor& part) {
    flat.narrow(0, first, part.numel()).copy_(part);
  });
  return out;
}

// Elements of all dimensions but the first: a convolution's weight is a matrix too.
int64_t row_elements(at::IntArrayRef shape) {
  return shape.empty() || shape[0] == 0 ? 0 : c10::multiply_integers(shape) / shape[0];
}

// A pair that fits a weight of `shape`; returns the rank.
int64_t checked_rank(const Path& file, const Parts& parts, at::IntArrayRef shape) {
  if (!parts.down || !parts.up) {
    refuse(file, str(escape_control(parts.key), " has no partner: lora_A (lora_down) and lora_B ",
                     "(lora_up) belong together. Is the file complete?"));
  }
  const std::vector<int64_t>& down = parts.down->tensor->shape;
  const std::vector<int64_t>& up = parts.up->tensor->shape;
  const bool fits = !down.empty() && !up.empty() && down[0] >= 1 && row_elements(up) == down[0] &&
                    up[0] == shape[0] && row_elements(down) == row_elements(shape);
  if (!fits) {
    refuse(file, str(escape_control(parts.key), ": shapes ", format_shape(down), " and ",
                     format_shape(up), " do not multiply to the model's ", format_shape(shape),
                     ". Is the LoRA made for a model of this size?"));
  }
  if (down[0] > kMaxRank) {
    refuse(file,
           str(escape_control(parts.key), ": rank must be at most ", kMaxRank, ", got ", down[0]));
  }
  return down[0];
}

double alpha_over_rank(const Path& file, const Parts& parts, int64_t rank) {
  if (!parts.alpha) {
    return 1.0;
  }
  if (parts.alpha->tensor->num_elements() != 1) {
    refuse(file, str(escape_control(parts.alpha->tensor->name), " must be one number, got shape ",
                     format_shape(parts.alpha->tensor->shape)));
  }
  return read_fp32(*parts.alpha).item<double>() / static_cast<double>(rank);
}

void check_diff(const Path& file, const Entry& diff, at::IntArrayRef shape) {
  if (at::IntArrayRef(diff.tensor->shape) != shape) {
    refuse(file, str(escape_control(diff.tensor->name), " must have the model's shape ",
                     format_shape(shape), ", got ", format_shape(diff.tensor->shape)));
  }
}

}  // namespace

LoraMerge::Loaded LoraMerge::load(const layout::LoraChoice& lora) const {
  Loaded out{.files = std::make_unique<io::WeightFiles>(io::WeightFiles::open(lora.file))};
  const auto parameters = model_.named_parameters();
  std::map<std::string, Parts> modules;
  for (const std::string& name : out.files->names()) {
    if (layout::is_whole_gate(name) && parameters.contains(name)) {
      const std::optional<Entry> whole = out.files->find(name);
      check_diff(lora.file, *whole, parameters[name].sizes());
      out.updates.emplace(name, Update{.whole = whole, .scale = lora.scale});
      continue;
    }
    const std::optional<layout::LoraKey> key = layout::read_lora_key(name);
    const bool is_bias = key && key->part == layout::LoraPart::kDiffBias;
    if (!key || !parameters.contains(key->module + (is_bias ? ".bias" : ".weight"))) {
      out.unmatched.push_back(name);
      continue;
    }
    Parts& parts = modules[key->module];
    std::optional<Entry>& slot = part_of(parts, key->part);
    if (slot) {
      refuse(lora.file, str(escape_control(name), " and ", escape_control(slot->tensor->name),
                            " are two updates of one weight"));
    }
    slot = out.files->find(name);
    parts.key = name;
  }
  if (modules.empty() && out.updates.empty()) {
    refuse(lora.file,
           str("none of its ", out.unmatched.size(), " keys names a layer of the model, first: ",
               escape_control(join_first(out.unmatched, kMaxListed)),
               ". Is it a LoRA for a Wan transformer?"));
  }
  for (const auto& [module, parts] : modules) {
    Update weight{.diff = parts.diff, .scale = lora.scale};
    if (parts.down || parts.up) {
      const at::IntArrayRef shape = parameters[module + ".weight"].sizes();
      const int64_t rank = checked_rank(lora.file, parts, shape);
      weight.down = parts.down;
      weight.up = parts.up;
      weight.factor = lora.scale * alpha_over_rank(lora.file, parts, rank);
    }
    if (parts.diff) {
      check_diff(lora.file, *parts.diff, parameters[module + ".weight"].sizes());
    }
    if (weight.down || weight.diff) {
      const bool is_new = out.updates.emplace(module + ".weight", weight).second;
      if (!is_new) {
        refuse(lora.file, str(escape_control(parts.key), " and ", module,
                              ".weight are two updates of one weight"));
      }
    }
    if (parts.diff_bias) {
      check_diff(lora.file, *parts.diff_bias, parameters[module + ".bias"].sizes());
      out.updates.emplace(module + ".bias", Update{.diff = parts.diff_bias, .scale = lora.scale});
    }
  }
  return out;
}

// From the base, with all updates: one rounding however many files are merged.
void LoraMerge::rewrite(const std::string& name) {
  const at::Tensor parameter = model_.named_parameters()[name].detach();
  const auto [base, is_new] = base_.try_emplace(name);
  if (is_new) {
    base->second = parameter.clone();
  }
  at::Tensor sum = base->second.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  const bool is_touched = std::any_of(loaded_.begin(), loaded_.end(), [&name](const Loaded& l) {
    return l.updates.contains(name);
  });
  if (!is_touched) {
    parameter.copy_(base->second);
    return;
  }
  for (const Loaded& loaded : loaded_) {
    const auto found = loaded.updates.find(name);
    if (found == loaded.updates.end()) {
      continue;
    }
    const Update& update = found->second;
    if (update.down) {
      const at::Tensor down = read_fp32(*update.down).flatten(1).to(sum.device());  // [r, in]
      const at::Tensor up = read_fp32(*update.up).flatten(1).to(sum.device());      // [out, r]
      sum.add_(at::matmul(up, down).view(sum.sizes()), update.factor);
    }
    if (update.diff) {
      sum.add_(read_fp32(*update.diff).to(sum.device()), update.scale);
    }
    if (update.whole) {
      sum.lerp_(read_fp32(*update.whole).to(sum.device()), update.scale);  // 1: its very numbers
    }
  }
  parameter.copy_(sum);
}

bool LoraMerge::bring_gates(std::span<const std::string> loras) {
  return std::any_of(loras.begin(), loras.end(), [](const std::string& text) {
    const Path file = layout::read_lora_choice(text).file;
    if (!std::filesystem::exists(file)) {
      return false;
    }
    const std::vector<std::string> names = io::WeightFiles::open(file).names();
    return std::any_of(names.begin(), names.end(), [](const std::string& name) {
      return name.find(layout::kGateName) != std::string::npos;
    });
  });
}

std::vector<std::string> LoraMerge::merge(const layout::LoraChoice& lora) {
  loaded_.push_back(load(lora));
  const Updates updates = loaded_.back().updates;
  try {
    for (const auto& [name, update] : updates) {
      rewrite(name);
    }
    loaded_.back().files->check_unchanged();
  } catch (...) {
    loaded_.pop_back();
    for (const auto& [name, update] : updates) {
      rewrite(name);
    }
    throw;
  }
  return loaded_.back().unmatched;
}

void LoraMerge::remove() {
  loaded_.clear();
  const auto parameters = model_.named_parameters();
  for (const auto& [name, value] : base_) {
    parameters[name].detach().copy_(value);
  }
  base_.clear();
}

}  // namespace fastwan::models
