// Times the Hopper kernels at the shapes of the models. Writes the results as fastwan-bench/1.
#include <algorithm>
#include <cmath>
#include <fstream>
#include <functional>
#include <string>

#include "kernels/block_attention/block_attention_mma.h"
#include "tests/gpu/coarse.h"
#include "tests/gpu/problem.h"

namespace fastwan::gpu {
namespace {

namespace sm90 = kernels::cuda::sm90;
namespace mma = kernels::cuda::mma;

constexpr int kRepeats = 21;
constexpr int kWarmUps = 5;
constexpr std::size_t kFlushBytes = 256 << 20;  // more than twice the L2 cache

struct Timing {
  double median_ms, min_ms, iqr_ms;
};

class Clock {
 public:
  Timing time(const std::function<void()>& run) {
    std::vector<double> ms;
    for (int i = 0; i < kWarmUps + kRepeats; ++i) {
      flush_.fill_bytes(i);
      check(cudaEventRecord(start_), "cudaEventRecord");
      run();
      check(cudaEventRecord(stop_), "cudaEventRecord");
      check(cudaEventSynchronize(stop_), "kernel");
      float elapsed = 0;
      check(cudaEventElapsedTime(&elapsed, start_, stop_), "cudaEventElapsedTime");
      if (i >= kWarmUps) {
        ms.push_back(elapsed);
      }
    }
    std::sort(ms.begin(), ms.end());
    return {ms[ms.size() / 2], ms.front(), ms[ms.size() * 3 / 4] - ms[ms.size() / 4]};
  }
  Clock() {
    check(cudaEventCreate(&start_), "cudaEventCreate");
    check(cudaEventCreate(&stop_), "cudaEventCreate");
  }

 private:
  DeviceArray<uint8_t> flush_{kFlushBytes};
  cudaEvent_t start_{}, stop_{};
};

struct Row {
  std::string name, lists;
  const Case& c;
  Order order;
  double operations_per_pair;
  Timing t;
};

std::string json(const Row& r, int64_t tiles) {
  const double pairs = static_cast<double>(tiles * 64 * r.c.K * 64 * r.c.H * r.c.B);
  const double tflops =
      pairs * r.operations_per_pair * static_cast<double>(r.c.D) / r.t.median_ms * 1e-9;
  char text[640];
  std::snprintf(
      text, sizeof(text),
      "{\"name\": \"%s\", \"shape\": {\"case\": \"%s\", \"heads\": %ld, \"head_dim\": %ld, "
      "\"tiles\": %ld, \"topk\": %ld, \"lists\": \"%s\", \"order\": \"%s\"}, "
      "\"dtype\": \"bf16\", \"device\": \"cuda:0\", \"median_ms\": %.4f, \"min_ms\": %.4f, "
      "\"iqr_ms\": %.4f, \"repeats\": %d, \"tflops\": %.1f, \"gbps\": null, "
      "\"peer_ratio\": null, \"flags\": [%s]}",
      r.name.c_str(), r.c.name.c_str(), static_cast<long>(r.c.H), static_cast<long>(r.c.D),
      static_cast<long>(tiles), static_cast<long>(r.c.K), r.lists.c_str(), name_of(r.order),
      r.t.median_ms, r.t.min_ms, r.t.iqr_ms, kRepeats, tflops,
      r.t.iqr_ms > 0.03 * r.t.median_ms ? "\"noisy\"" : "");
  std::printf("%-16s %-18s %-8s %-8s %9.3f ms  min %9.3f  iqr %6.3f  %7.1f TFLOP/s\n",
              r.name.c_str(), r.c.name.c_str(), r.lists.c_str(), name_of(r.order), r.t.median_ms,
              r.t.min_ms, r.t.iqr_ms, tflops);
  std::fflush(stdout);
  return text;
}

std::vector<Case> model_cases() {
  const auto video = [](const char* name, int64_t heads, kernels::TokenGrid grid, int64_t topk) {
    return Case{.name = name, .B = 1, .H = heads, .D = 128, .K = topk, .grid = grid};
  };
  return {
      video("480x832x81 s.8", 12, {21, 30, 52}, 125), video("480x832x81 s.9", 12, {21, 30, 52}, 63),
      video("448x832x61 s.8", 12, {16, 28, 52}, 73), video("448x832x61 s.9", 12, {16, 28, 52}, 37),
      video("5B 704x1280x121 s.8", 24, {31, 22, 40}, 96),
      video("14B 720x1280x81 s.9", 40, {21, 45, 80}, 144),
      // 16 heads x 40,768 tokens, as published for another kernel
      video("16x40768 s.9", 16, {28, 28, 52}, 64)};
}

constexpr double kForward = 4, kBackward = 10;  // operations a pair and channel, nominal

std::vector<std::string> bench(const Case& c, Clock& clock) {
  std::vector<std::string> rows;
  for (const Order order : {Order::kTiledHeadMajor, Order::kRaster}) {
    const Problem p = make_problem(c, order, 3);
    const int64_t tiles = p.queries.num_tiles();
    kernels::FineArgs fine = p.forward_args(/*with_gate=*/false);
    DeviceArray<uint8_t> workspace(static_cast<std::size_t>(sm90::workspace_bytes(fine)));
    const auto forward = [&] { sm90::block_attention(fine, workspace.data(), nullptr); };
    rows.push_back(
        json({"vsa.kernel.fwd", "uniform", c, order, kForward, clock.time(forward)}, tiles));
    if (order == Order::kRaster) {
      const CoarseStage stage(p);
      kernels::FineArgs gated = p.forward_args(/*with_gate=*/true);
      gated.coarse = stage.select().coarse;
      gated.lse = nullptr;
      const auto whole = [&] {
        stage.run(nullptr);
        sm90::block_attention(gated, workspace.data(), nullptr);
      };
      rows.push_back(json({"vsa.op.fwd", "uniform", c, order, kForward, clock.time(whole)}, tiles));
      gated.list.index = stage.select().block_index;
      gated.list.count = stage.select().block_count;
      rows.push_back(json({"vsa.op.fwd", "coarse", c, order, kForward, clock.time(whole)}, tiles));
      rows.push_back(json({"vsa.tile_pool", "-", c, order, 0,
                           clock.time([&] { kernels::cuda::tile_pool(stage.pool(), nullptr); })},
                          tiles));
      rows.push_back(json({"vsa.coarse_topk", "-", c, order, 0, clock.time([&] {
                             kernels::cuda::coarse_select(stage.select(), nullptr);
                           })},
                          tiles));
    }
    const kernels::FineBackwardArgs back = p.backward_args();
    DeviceArray<uint8_t> more(static_cast<std::size_t>(
        std::max(sm90::workspace_bytes(back), mma::workspace_bytes(back))));
    const auto backward = [&] { sm90::block_attention_backward(back, more.data(), nullptr); };
    rows.push_back(
        json({"vsa.kernel.bwd", "uniform", c, order, kBackward, clock.time(backward)}, tiles));
    if (order == Order::kTiledHeadMajor && c.H == 12) {  // the portable kernels: some rows suffice
      const auto portable = [&] { mma::block_attention(fine, mma::Format::kBf16, nullptr); };
      rows.push_back(
          json({"vsa.mma.fwd", "uniform", c, order, kForward, clock.time(portable)}, tiles));
      const auto portable_back = [&] {
        mma::block_attention_backward(back, mma::Format::kBf16, more.data(), nullptr);
      };
      rows.push_back(
          json({"vsa.mma.bwd", "uniform", c, order, kBackward, clock.time(portable_back)}, tiles));
    }
  }
  return rows;
}

int run(const char* path, const std::string& only) {
  cudaDeviceProp device{};
  check(cudaGetDeviceProperties(&device, 0), "cudaGetDeviceProperties");
  std::ofstream out(path);
  out << "{\"schema\": \"fastwan-bench/1\", \"run\": {\"gpu\": \"" << device.name
      << "\"}, \"results\": [";
  const char* separator = "\n ";
  Clock clock;
  for (const Case& c : model_cases()) {
    if (c.name.find(only) == std::string::npos) {
      continue;
    }
    for (const std::string& row : bench(c, clock)) {
      out << separator << row;
      separator = ",\n ";
    }
  }
  out << "\n]}\n";
  return 0;
}

}  // namespace
}  // namespace fastwan::gpu

int main(int argc, char** argv) {
  if (argc < 2) {
    std::printf("usage: bench FILE.json [PART OF A CASE'S NAME]\n");
    return 2;
  }
  return fastwan::gpu::run(argv[1], argc > 2 ? argv[2] : "");
}
