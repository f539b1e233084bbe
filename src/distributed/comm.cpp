#include "distributed/comm.h"

#include "base/check.h"

namespace fastwan::distributed {
namespace {

void check_pair(const at::Tensor& a, const at::Tensor& b) {
  invariant(a.is_contiguous() && b.is_contiguous(), "collectives take contiguous tensors");
  invariant(a.scalar_type() == b.scalar_type() && a.device() == b.device(),
            "collectives take tensors of one dtype and device");
}

class SelfComm final : public Comm {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void barrier() override {}

 private:
  static void copy(const at::Tensor& to, const at::Tensor& from) {
    if (to.const_data_ptr() != from.const_data_ptr()) {
      to.view({-1}).copy_(from.view({-1}));
    }
  }

  void do_all_reduce_sum(const at::Tensor&) override {}
  void do_all_gather(const at::Tensor& whole, const at::Tensor& part) override {
    copy(whole, part);
  }
  void do_reduce_scatter_sum(const at::Tensor& part, const at::Tensor& whole) override {
    copy(part, whole);
  }
  void do_all_to_all(const at::Tensor& received, const at::Tensor& sent) override {
    copy(received, sent);
  }
  void do_broadcast(const at::Tensor&, int64_t) override {}
};

}  // namespace

void Comm::all_reduce_sum(const at::Tensor& x) {
  invariant(x.is_contiguous(), "collectives take contiguous tensors");
  do_all_reduce_sum(x);
}

void Comm::all_gather(const at::Tensor& whole, const at::Tensor& part) {
  check_pair(whole, part);
  invariant(whole.numel() == size() * part.numel(), "all_gather: whole holds size() parts");
  do_all_gather(whole, part);
}

void Comm::reduce_scatter_sum(const at::Tensor& part, const at::Tensor& whole) {
  check_pair(part, whole);
  invariant(whole.numel() == size() * part.numel(), "reduce_scatter: whole holds size() parts");
  do_reduce_scatter_sum(part, whole);
}

void Comm::all_to_all(const at::Tensor& received, const at::Tensor& sent) {
  check_pair(received, sent);
  invariant(received.numel() == sent.numel() && sent.numel() % size() == 0,
            "all_to_all: received and sent hold size() equal slices");
  do_all_to_all(received, sent);
}

void Comm::broadcast(const at::Tensor& x, int64_t root) {
  invariant(x.is_contiguous(), "collectives take contiguous tensors");
  invariant(root >= 0 && root < size(), "broadcast: root is a rank of the group");
  do_broadcast(x, root);
}

std::shared_ptr<Comm> make_self_comm() {
  return std::make_shared<SelfComm>();
}

Mesh one_process() {
  return {.world = make_self_comm(), .shard = make_self_comm(), .replicate = make_self_comm()};
}

}  // namespace fastwan::distributed
