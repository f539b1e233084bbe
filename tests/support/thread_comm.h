// For tests: ranks that are threads of one process, to prove what is cut over ranks without a
// network.
#pragma once

#include <barrier>
#include <memory>
#include <thread>
#include <vector>

#include "distributed/comm.h"

namespace fastwan::testing {

struct ThreadGroup {
  explicit ThreadGroup(int64_t size) : posted(static_cast<std::size_t>(size)), all(size) {}
  std::vector<at::Tensor> posted;  // by rank
  std::barrier<> all;
};

class ThreadComm final : public distributed::Comm {
 public:
  ThreadComm(std::shared_ptr<ThreadGroup> group, int64_t rank)
      : group_(std::move(group)), rank_(rank) {}

  int64_t rank() const override { return rank_; }
  int64_t size() const override { return static_cast<int64_t>(group_->posted.size()); }
  void barrier() override { group_->all.arrive_and_wait(); }

 private:
  // Runs `take` while every rank's tensor is posted.
  template <class Take>
  void exchange(const at::Tensor& mine, const Take& take) {
    group_->posted[static_cast<std::size_t>(rank_)] = mine;
    barrier();
    const at::Tensor result = take(group_->posted);
    barrier();
    result_ = result;
  }
  static at::Tensor sum(const std::vector<at::Tensor>& all) {
    at::Tensor total = all[0].clone();
    for (std::size_t i = 1; i < all.size(); ++i) {
      total.add_(all[i]);
    }
    return total;
  }

  void do_all_reduce_sum(const at::Tensor& x) override {
    exchange(x, sum);
    x.copy_(result_);
  }
  void do_all_gather(const at::Tensor& whole, const at::Tensor& part) override {
    exchange(part.clone(), [&](const std::vector<at::Tensor>& all) {
      for (std::size_t i = 0; i < all.size(); ++i) {
        whole.narrow(0, static_cast<int64_t>(i) * part.size(0), part.size(0)).copy_(all[i]);
      }
      return whole;
    });
  }
  void do_reduce_scatter_sum(const at::Tensor& part, const at::Tensor& whole) override {
    exchange(whole, sum);
    part.copy_(result_.narrow(0, rank_ * part.size(0), part.size(0)));
  }
  void do_all_to_all(const at::Tensor& received, const at::Tensor& sent) override {
    const int64_t n = sent.size(0) / size();
    exchange(sent, [&](const std::vector<at::Tensor>& all) {
      for (std::size_t i = 0; i < all.size(); ++i) {
        received.narrow(0, static_cast<int64_t>(i) * n, n).copy_(all[i].narrow(0, rank_ * n, n));
      }
      return received;
    });
  }
  void do_broadcast(const at::Tensor& x, int64_t root) override {
    exchange(x, [&](const std::vector<at::Tensor>& all) {
      return all[static_cast<std::size_t>(root)].clone();
    });
    x.copy_(result_);
  }

  std::shared_ptr<ThreadGroup> group_;
  int64_t rank_;
  at::Tensor result_;
};

// Runs body(rank, mesh) on replicate x shard threads. An exception ends the program: the other
// threads would wait for ever.
template <class Body>
void on_ranks(int64_t replicate, int64_t shard, const Body& body) {
  const auto world = std::make_shared<ThreadGroup>(replicate * shard);
  std::vector<std::shared_ptr<ThreadGroup>> rows, columns;
  for (int64_t i = 0; i < replicate; ++i) {
    rows.push_back(std::make_shared<ThreadGroup>(shard));
  }
  for (int64_t j = 0; j < shard; ++j) {
    columns.push_back(std::make_shared<ThreadGroup>(replicate));
  }
  std::vector<std::thread> threads;
  for (int64_t rank = 0; rank < replicate * shard; ++rank) {
    const int64_t i = rank / shard, j = rank % shard;
    const distributed::Mesh mesh{
        .world = std::make_shared<ThreadComm>(world, rank),
        .shard = std::make_shared<ThreadComm>(rows[static_cast<std::size_t>(i)], j),
        .replicate = std::make_shared<ThreadComm>(columns[static_cast<std::size_t>(j)], i)};
    threads.emplace_back([&body, rank, mesh] { body(rank, mesh); });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
}

}  // namespace fastwan::testing
