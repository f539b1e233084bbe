// A network's parameters as flat buffers, one a unit: what is gathered, reduced, optimised and
// saved in one piece.
//
//   master    [padded / shard] on each rank: tensors one behind the other in the byte order of
//             their Diffusers names, zeros up to a multiple of `shard`; fp32, fp64 where the
//             compute dtype is fp64; a frozen network holds the compute dtype alone
//   compute   [padded] in the compute dtype, gathered while it is needed; the module's parameters
//             are views of it. A rank that holds the whole unit in the compute dtype gathers
//             nothing: its parameters are views of the master
//   gradient  like the master: the mean over ranks, summed over calls until zero_gradients()
//
// Padding is zero and stays zero: its gradient is zero, and norm, optimizer and EMA do not see it.
// A unit that is not gathered has parameters of NaN, so that a use out of turn cannot pass.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "distributed/comm.h"

namespace fastwan::training {

// The parameters of a unit by name; any order.
struct UnitNames {
  std::string name;
  std::vector<std::string> parameters;
};
// All parameters as one unit, "all": for modules that are small or no chain of blocks.
std::vector<UnitNames> one_unit(const torch::nn::Module& module);

struct UnitTensor {
  std::string name;
  std::vector<int64_t> shape;
  int64_t offset = 0, numel = 0;  // in the unit's logical vector
};

struct UnitLayout {
  std::string name;
  std::vector<UnitTensor> tensors;
  int64_t numel = 0;   // the logical vector, without padding
  int64_t padded = 0;  // a multiple of shard
};

// A range of a unit's logical vector that this rank holds, as checkpoints save it. Writing to
// `values` restores it.
struct FlatPiece {
  std::string unit;
  std::string kind;   // "p" parameters, "m" and "v" moments, "ema"
  int64_t begin = 0;  // in the logical vector
  at::Tensor values;  // [end - begin], a view; empty where a rank holds padding alone
};

struct UnitsOptions {
  bool is_trainable = true;
  at::ScalarType compute = at::kFloat;  // fp32, bf16 or fp64
  at::Device device = at::kCPU;
};

class Units {
 public:
  // The module's parameters of these names with their present values; they become views, and want
  // a gradient where the units are trainable.
  Units(const torch::nn::Module& module,
        const std::vector<UnitNames>& partition,
        const UnitsOptions& options,
        const distributed::Mesh& mesh);
  Units(const Units&) = delete;
  Units& operator=(const Units&) = delete;

  const std::vector<UnitLayout>& layout() const { return layout_; }
  int64_t count() const { return static_cast<int64_t>(layout_.size()); }
  int64_t num_parameters() const;  // of all ranks together
  bool is_trainable() const { return options_.is_trainable; }
  at::ScalarType master_type() const { return master_type_; }
  const UnitsOptions& options() const { return options_; }
  const distributed::Mesh& mesh() const { return mesh_; }

  // This rank's slice without padding, a view: [end - begin] at begin(unit).
  at::Tensor master(int64_t unit) const;
  at::Tensor gradient(int64_t unit) const;
  int64_t begin(int64_t unit) const;
  std::vector<FlatPiece> pieces() const;  // kind "p"

  // The unit's parameters are valid while this lives.
  class Gathered {
   public:
    Gathered(Units& units, int64_t unit);
    Gathered(Gathered&& other) noexcept : units_(other.units_), unit_(other.unit_) {
      other.units_ = nullptr;
    }
    Gathered(const Gathered&) = delete;
    Gathered& operator=(const Gathered&) = delete;
    Gathered& operator=(Gathered&&) = delete;
    ~Gathered();

   private:
    Units* units_;
    int64_t unit_;
  };
  Gathered gather(int64_t unit) { return {*this, unit}; }
  std::vector<Gathered> gather_all();

  // Between the two, on a gathered unit, backward makes the parameters' gradients; close() adds
  // them to gradient(): cast, mean over ranks, this rank's slice.
  void open_gradients(int64_t unit);
  void close_gradients(int64_t unit);
  void zero_gradients();

  // Calls `write` while all parameters are whole tensors in the master dtype, then keeps what it
  // wrote: weights of a file are not rounded to the compute dtype on their way.
  void initialise(const std::function<void()>& write);

  // The parameters of these names in another module become views too: one copy of the weights for
  // several networks. Frozen units only.
  void lend(const torch::nn::Module& module, const std::vector<UnitNames>& partition);

  // Every tensor whole, in the master dtype; valid until the next update.
  struct Named {
    std::string name;
    at::Tensor value;
  };
  std::vector<Named> values() const;

 private:
  struct Unit {
    struct View {
      at::Tensor parameter;
      std::size_t tensor;  // in the layout
    };
    std::vector<View> views;
    at::Tensor master;    // [padded / shard]
    at::Tensor gradient;  // [padded / shard]
    at::Tensor compute;   // [padded] while gathered
    int64_t users = 0;
    bool is_open = false;  // gradients are being made
  };
  bool holds_compute() const;  // master and compute are one
  bool adds_in_place() const;  // gradients need no cast and no other rank
  at::Tensor whole(const Unit& unit, at::ScalarType type) const;
  void view_into(int64_t unit, const at::Tensor& flat);
  void withdraw(int64_t unit);
  void keep_own_slice(int64_t unit, const at::Tensor& flat);

  UnitsOptions options_;
  at::ScalarType master_type_;
  distributed::Mesh mesh_;
  std::vector<UnitLayout> layout_;
  std::vector<Unit> units_;
};

}  // namespace fastwan::training
