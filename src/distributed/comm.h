// A group of ranks and its collectives. Everything above sees this interface alone, so a back end
// of many processes changes nothing there.
//
// Tensors are contiguous and of one dtype and device on all ranks. Sums are made in the tensors'
// dtype; floating-point order depends on the back end, and is the same on all ranks. Calls come in
// the same order on every rank of the group. Errors: device_fault when a rank is lost; a wrong
// shape or dtype is our own bug.
#pragma once

#include <cstdint>
#include <memory>

#include <ATen/core/Tensor.h>

namespace fastwan::distributed {

class Comm {
 public:
  Comm() = default;
  Comm(const Comm&) = delete;
  Comm& operator=(const Comm&) = delete;
  virtual ~Comm() = default;

  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;

  // x: the sum over ranks, in place.
  void all_reduce_sum(const at::Tensor& x);
  // whole [size * n]: the parts [n] in rank order. `part` may be the rank's own slice of `whole`.
  void all_gather(const at::Tensor& whole, const at::Tensor& part);
  // part [n]: this rank's slice of the sum over ranks of `whole` [size * n].
  void reduce_scatter_sum(const at::Tensor& part, const at::Tensor& whole);
  // received [size * n], slice i: what rank i sent here; sent [size * n], slice i: what rank i
  // gets.
  void all_to_all(const at::Tensor& received, const at::Tensor& sent);
  // x: root's values on every rank.
  void broadcast(const at::Tensor& x, int64_t root);
  // Returns when every rank has called it.
  virtual void barrier() = 0;

 protected:
  // Shapes, dtypes and layouts have been checked.
  virtual void do_all_reduce_sum(const at::Tensor& x) = 0;
  virtual void do_all_gather(const at::Tensor& whole, const at::Tensor& part) = 0;
  virtual void do_reduce_scatter_sum(const at::Tensor& part, const at::Tensor& whole) = 0;
  virtual void do_all_to_all(const at::Tensor& received, const at::Tensor& sent) = 0;
  virtual void do_broadcast(const at::Tensor& x, int64_t root) = 0;
};

// The group of one rank.
std::shared_ptr<Comm> make_self_comm();

// How the ranks of a run are arranged: world = replicate x shard, rank = i * shard + j. A
// parameter is cut over the ranks of `shard` and repeated over those of `replicate`.
struct Mesh {
  std::shared_ptr<Comm> world, shard, replicate;
};
Mesh one_process();

}  // namespace fastwan::distributed
