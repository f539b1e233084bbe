#include "models/layout/published.h"

#include <algorithm>

namespace fastwan::layout {
namespace {

WanDitConfig wan(int64_t heads, int64_t layers, int64_t ffn, int64_t channels) {
  return {.num_heads = heads,
          .head_dim = 128,
          .num_layers = layers,
          .ffn_dim = ffn,
          .in_channels = channels,
          .out_channels = channels,
          .text_dim = 4096,
          .freq_dim = 256};
}

// The transformer/config.json of each.
const std::vector<PublishedModel>& table() {
  static const std::vector<PublishedModel> kTable = [] {
    const WanDitConfig small = wan(12, 30, 8960, 16);
    const WanDitConfig large = wan(40, 40, 13824, 16);
    const WanDitConfig five = wan(24, 30, 14336, 48);
    return std::vector<PublishedModel>{{"Wan2.1-T2V-1.3B-Diffusers", small, 16, 8},
                                       {"Wan2.1-T2V-14B-Diffusers", large, 16, 8},
                                       {"Wan2.2-TI2V-5B-Diffusers", five, 48, 16},
                                       {"FastWan2.1-T2V-1.3B-Diffusers", small, 16, 8},
                                       {"FastWan2.1-T2V-14B-480P-Diffusers", large, 16, 8},
                                       {"FastWan2.1-T2V-14B-Diffusers", large, 16, 8},
                                       {"FastWan2.2-TI2V-5B-Diffusers", five, 48, 16},
                                       {"FastWan2.2-TI2V-5B-FullAttn-Diffusers", five, 48, 16},
                                       {"Wan2.1-VSA-T2V-14B-720P-Diffusers", large, 16, 8}};
  }();
  return kTable;
}

std::string_view name_in(std::string_view model) {
  return model.substr(model.rfind('/') + 1);
}

}  // namespace

const PublishedModel* published_model(std::string_view model) {
  const std::string_view name = name_in(model);
  const auto found = std::find_if(table().begin(), table().end(),
                                  [name](const PublishedModel& m) { return m.name == name; });
  return found == table().end() ? nullptr : &*found;
}

bool is_clip_conditioned(std::string_view model) {
  const std::string_view name = name_in(model);
  return name.starts_with("Wan2.1-I2V-") || name.starts_with("Wan2.1-FLF2V-");
}

}  // namespace fastwan::layout
