#include "pipelines/layer_stream.h"

#include <array>
#include <vector>

#include <ATen/ops/empty_like.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace fastwan::pipelines {
namespace {

constexpr std::size_t kBlocksOnDevice = 2;

// Parameters of one block: their places in the model, and their values in pinned host memory.
struct HostBlock {
  std::vector<at::Tensor> parameters;
  std::vector<at::Tensor> values;
};

// Room for one block on the device.
struct DeviceBlock {
  std::vector<at::Tensor> values;
  c10::Event filled;  // the copy into it is done
  c10::Event used;    // the block that computed from it is done
};

}  // namespace

struct LayerStream::Impl {
  Impl(std::shared_ptr<models::WanDit> dit, at::Device on)
      : model(std::move(dit)),
        device(on),
        guard(on.type()),
        copies(guard.getStreamFromGlobalPool(on)),
        room{DeviceBlock{{}, c10::Event(on.type()), c10::Event(on.type())},
             DeviceBlock{{}, c10::Event(on.type()), c10::Event(on.type())}} {}

  // Starts copying block `index` into its half of the room, once the block before it there is done.
  void prefetch(std::size_t index) {
    DeviceBlock& to = room[index % kBlocksOnDevice];
    const HostBlock& from = blocks[index];
    to.used.block(copies);
    const c10::Stream before = guard.exchangeStream(copies);
    for (std::size_t i = 0; i < from.values.size(); ++i) {
      to.values[i].copy_(from.values[i], /*non_blocking=*/true);
    }
    to.filled.record(copies);
    guard.exchangeStream(before);
  }

  // The parameters of block `index` become the copied ones, when they are there.
  void place(std::size_t index) {
    DeviceBlock& at_device = room[index % kBlocksOnDevice];
    at_device.filled.block(guard.getStream(device));
    for (std::size_t i = 0; i < blocks[index].parameters.size(); ++i) {
      blocks[index].parameters[i].set_data(at_device.values[i]);
    }
  }

  void take_back(std::size_t index) {
    room[index % kBlocksOnDevice].used.record(guard.getStream(device));
    for (std::size_t i = 0; i < blocks[index].parameters.size(); ++i) {
      blocks[index].parameters[i].set_data(blocks[index].values[i]);
    }
  }

  std::shared_ptr<models::WanDit> model;
  at::Device device;
  c10::impl::VirtualGuardImpl guard;
  c10::Stream copies;
  std::array<DeviceBlock, kBlocksOnDevice> room;
  std::vector<HostBlock> blocks;
};

LayerStream::LayerStream(std::shared_ptr<models::WanDit> model, at::Device device)
    : impl_(std::make_unique<Impl>(std::move(model), device)) {
  for (const auto& block : impl_->model->blocks()) {
    HostBlock held;
    for (at::Tensor& parameter : block->parameters()) {
      parameter.set_data(parameter.pin_memory());
      held.parameters.push_back(parameter);
      held.values.push_back(parameter.detach());
    }
    impl_->blocks.push_back(std::move(held));
  }
  for (auto& parameter : impl_->model->named_parameters()) {
    if (!parameter.key().starts_with("blocks.")) {
      parameter.value().set_data(parameter.value().to(device));
    }
  }
  for (DeviceBlock& room : impl_->room) {
    for (const at::Tensor& value : impl_->blocks.front().values) {
      room.values.push_back(at::empty_like(value, value.options().device(device)));
    }
  }
}

LayerStream::~LayerStream() = default;

at::Tensor LayerStream::forward(const at::Tensor& latents,
                                const at::Tensor& timestep,
                                const at::Tensor& text,
                                const ops::AttentionPlan& plan) {
  const models::WanDit& dit = *impl_->model;
  impl_->prefetch(0);
  models::WanDit::State state = dit.head_in(latents, timestep, plan);
  const models::Rope rope = dit.rope_for(plan, latents.device());
  for (std::size_t i = 0; i < dit.blocks().size(); ++i) {
    if (i + 1 < dit.blocks().size()) {
      impl_->prefetch(i + 1);
    }
    impl_->place(i);
    state.x = dit.blocks()[i]->forward(state.x, text, state.time, rope, dit.attention(), plan);
    impl_->take_back(i);
  }
  return dit.head_out(state, latents.sizes());
}

}  // namespace fastwan::pipelines
