#include "training/export.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "models/layout/model_folder.h"
#include "models/layout/tensors.h"
#include "training/fault_injection.h"
#include "training/lora.h"

namespace fastwan::training {
namespace {

namespace fs = std::filesystem;
using fastwan::testing::Fault;
using fastwan::testing::is_killed_in_child;
using fastwan::testing::with_faults;

const Path kModel = Path(FASTWAN_SOURCE_DIR) / "tests" / "models" / "random-shapes";

std::vector<ExportTensor> weights_of_value(double value) {
  std::vector<ExportTensor> weights;
  for (const layout::TensorSpec& tensor :
       layout::tensors_of(layout::open_model_folder(kModel, {}).transformer_config)) {
    weights.push_back({.name = tensor.name, .shape = tensor.shape, .value = [tensor, value] {
                         return at::full(tensor.shape, value, at::kFloat);
                       }});
  }
  return weights;
}

void export_value(double value, const Path& to, const Path& base = kModel) {
  export_folder(weights_of_value(value), {.base = base, .to = to, .replaces = true});
}

std::string weights_in(const Path& to) {
  return read_file(to / "transformer" / "diffusion_pytorch_model.safetensors");
}

TEST(Export, KilledAtAnyCallItIsWrittenByTheNext) {
  TempFolder folder;
  // A base of few files, for each is removed once in every round.
  const Path base = folder.where() / "base", to = folder.where() / "out";
  fs::create_directory(base);
  for (const char* part : {"model_index.json", "transformer", "scheduler"}) {
    fs::copy(kModel / part, base / part, fs::copy_options::recursive);
  }
  const Path older = folder.where() / "older", newer = folder.where() / "newer";
  export_value(1, older, base);
  export_value(2, newer, base);
  ASSERT_NE(weights_in(older), weights_in(newer));
  const auto prepare = [&] {
    fs::remove_all(to);
    fs::remove_all(folder.where() / "out.tmp");
    fs::copy(older, to, fs::copy_options::recursive);
  };
  prepare();
  const int64_t calls = with_faults({}, [&] { export_value(2, to, base); });
  ASSERT_GT(calls, 20);
  for (int64_t call = 1; call <= calls; ++call) {
    prepare();
    ASSERT_TRUE(is_killed_in_child({.fault = Fault::kKill, .call = call}, [&] {
      export_value(2, to, base);
    })) << call;
    ASSERT_NO_THROW(export_value(2, to, base)) << call;
    EXPECT_EQ(weights_in(to), weights_in(newer)) << call;
    EXPECT_FALSE(fs::exists(folder.where() / "out.tmp")) << call;
  }
}

// Adapters in the place of a whole model: none of its files stays beside them.
TEST(Export, WhatAnEarlierExportHeldIsGone) {
  TempFolder folder;
  const Path to = folder.where() / "out";
  export_value(1, to);
  save_lora(to, {.tensors = {{.name = "a.lora_A.weight", .tensor = at::full({2, 2}, 1.0)}},
                 .metadata = {}});
  EXPECT_TRUE(fs::exists(to / "pytorch_lora_weights.safetensors"));
  EXPECT_FALSE(fs::exists(to / "transformer"));
  export_value(2, to);
  EXPECT_FALSE(fs::exists(to / "pytorch_lora_weights.safetensors"));
}

// The other side: a file of someone's is no leaving of a kill.
TEST(Export, AFolderWithAnythingElseStays) {
  TempFolder folder;
  for (const char* name : {"note.part", ".fastwan-export.part", "..fastwan-export.1.partly"}) {
    const Path to = folder.where() / name;
    fs::create_directory(to);
    write_durably(to / name, "mine");
    EXPECT_THROW(export_value(1, to), Failure) << name;
    EXPECT_EQ(read_file(to / name), "mine");
  }
}

TEST(Export, OfALinkTheLinkAloneIsReplaced) {
  TempFolder folder;
  const Path elsewhere = folder.where() / "elsewhere", to = folder.where() / "out";
  export_value(1, elsewhere);
  fs::create_directory_symlink(elsewhere, to);
  const std::string before = weights_in(elsewhere);
  export_value(2, to);
  EXPECT_EQ(weights_in(elsewhere), before);
  EXPECT_NE(weights_in(to), before);
}

}  // namespace
}  // namespace fastwan::training
