// Trained weights as a Diffusers folder that `fastwan generate` and diffusers load.
//
//   <to>/<component>/config.json                              of the base model, with changes
//        <component>/diffusion_pytorch_model*.safetensors     one file, or shards and an index; a
//                                                             text encoder's: model*.safetensors
//        all other components                                 of the base model, copied or linked
//        model_index.json                                     of the base model, with the class
//        named
//
// Names and shapes are the unit tables'; VSA gates are blocks.N.to_gate_compress, which diffusers
// leaves out with a warning.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/files.h"
#include "training/checkpoint.h"
#include "training/units.h"

namespace fastwan::training {

// One weight, made when it is written, so that a large model need not be held twice.
struct ExportTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::function<at::Tensor()> value;
};

// All tensors of a role, from its units. bad_checkpoint when it has no such role or pieces.
std::vector<ExportTensor> weights_of(const Checkpoint& checkpoint,
                                     const std::string& role,
                                     PieceKind kind);

// All tensors of a network that is being trained, in its masters' dtype.
std::vector<ExportTensor> weights_of(const Units& units);

struct ExportOptions {
  Path base;  // Diffusers folder with all other components
  Path to;    // must not exist, but for an earlier export and replaces = true
  // The folder of `base` that is replaced: transformer, vae or text_encoder.
  std::string component = "transformer";
  std::string config;      // merged into the component's config.json (RFC 7396); empty: as it is
  std::string class_name;  // _class_name of model_index.json; empty: the base's
  std::string preset;      // merged into fastwan.json (RFC 7396); empty: as the base has it
  at::ScalarType dtype = at::kFloat;        // fp32 or bf16, rounded once
  int64_t max_file_bytes = 10'000'000'000;  // larger: shards
  int64_t limit_bytes = 0;                  // refuse any file above it; 0: no limit
  bool links = false;                       // other components as symbolic links
  bool replaces = false;                    // an older export is replaced when the new one is whole
};
// What an export copies from `base` must be there before a run begins, not only at its end.
// not_found for links to nothing and for links to a folder around themselves.
void check_export_base(const Path& base);

// Replacing `to` must take nothing with it but an earlier export; before a run begins, as above.
// conflict when it is or holds one of `in_use`: model folders, the run's own folder. exists when it
// is a file, or a folder with something in it that no export wrote.
void check_export_target(const Path& to, std::span<const Path> in_use);

// What `fill` writes into the folder it is given takes the place of an earlier export at `to` when
// it is whole. exists where `to` is something else.
void replace_export(const Path& to, const std::function<void(const Path& unfinished)>& fill);

// Written beside `to` and renamed when whole. exists; does_not_fit above limit_bytes; not_found
// when the base lacks model_index.json; missing_weights when names or shapes are not those of its
// config.
void export_folder(const std::vector<ExportTensor>& weights, const ExportOptions& options);

}  // namespace fastwan::training
