// The Hopper and the portable kernels against the host's double precision: every order, head size,
// ragged tile, empty list; the same bits each time. Bar: at most twice the error of the same
// roundings on the host, plus one ulp.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>

#include <cuda_fp16.h>

#include "kernels/block_attention/block_attention_mma.h"
#include "kernels/vsa_coarse/vsa_coarse.h"
#include "tests/gpu/coarse.h"
#include "tests/gpu/parts.h"
#include "tests/gpu/problem.h"
#include "tests/gpu/reference.h"

namespace fastwan::gpu {
namespace {

namespace sm90 = kernels::cuda::sm90;
namespace mma = kernels::cuda::mma;

struct Errors {
  double worst = 0, square = 0, range = 0;
  std::size_t worst_at = 0;
  bool same_infinities = true;
};

Errors errors(const std::vector<double>& got, const std::vector<double>& want) {
  Errors e;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(want[i])) {
      continue;  // not computed
    }
    if (std::isinf(want[i]) || !std::isfinite(got[i])) {
      e.same_infinities = e.same_infinities && got[i] == want[i];
      continue;
    }
    const double error = std::abs(got[i] - want[i]);
    if (error > e.worst) {
      e.worst = error;
      e.worst_at = i;
    }
    e.square += error * error;
    e.range = std::max(e.range, std::abs(want[i]));
  }
  return e;
}

struct Triple {
  const std::vector<double>&got, &plain, &want;
  double ulp;  // of the result type, relative
};

bool holds(const char* what, const Triple& x) {
  const Errors kernel = errors(x.got, x.want), plain = errors(x.plain, x.want);
  const auto n = static_cast<double>(x.want.size());
  const bool ok = kernel.same_infinities && kernel.worst <= 2 * plain.worst + x.ulp * plain.range &&
                  std::sqrt(kernel.square / n) <= 2 * std::sqrt(plain.square / n) + 1e-6;
  if (!ok) {
    std::printf(
        "  FAILED %s: worst element %zu is %.9g, exactly %.9g; rms %.3g, plain %.3g (worst %.3g)\n",
        what, kernel.worst_at, x.got[kernel.worst_at], x.want[kernel.worst_at],
        std::sqrt(kernel.square / n), std::sqrt(plain.square / n), plain.worst);
  }
  return ok;
}

constexpr double kBf16Ulp = 1.0 / 128;
constexpr double kLseUlp = 1e-6;

bool zero_without_token(const Problem& p, const std::vector<Bf16>& x, const TileTokens& at) {
  if (p.order == Order::kRaster) {
    return true;
  }
  const auto place = p.tokens(x.data(), at);
  for (int64_t b = 0; b < p.c.B; ++b) {
    for (int64_t n = 0; n < at.num_tiles(); ++n) {
      const auto size = static_cast<int64_t>(at.tokens[static_cast<std::size_t>(n)].size());
      for (int64_t s = n * 64 + size; s < (n + 1) * 64; ++s) {
        for (int64_t h = 0; h < p.c.H; ++h) {
          const Bf16* row = place.row(b, s, h);
          if (std::any_of(row, row + p.c.D, [](Bf16 v) { return v.bits != 0; })) {
            std::printf("  FAILED slot %ld without a token is not zero\n", static_cast<long>(s));
            return false;
          }
        }
      }
    }
  }
  return true;
}

bool same_bits_again(const std::function<void()>& run,
                     const DeviceArray<Bf16>& result,
                     int repeats) {
  const std::vector<Bf16> first = result.download();
  for (int i = 0; i < repeats; ++i) {
    run();
    check(cudaDeviceSynchronize(), "kernel");
    const std::vector<Bf16> again = result.download();
    if (std::memcmp(first.data(), again.data(), first.size() * sizeof(Bf16)) != 0) {
      std::printf("  FAILED other bits in run %d\n", i + 2);
      return false;
    }
  }
  return true;
}

enum class Kernel { kHopper, kPortable, kPortableHalf };

// The same numbers as fp16 bits, and back. What fp16 cannot hold of a bf16 in N(0, 1) is below
// 1e-7.
std::vector<Bf16> to_half_bits(std::vector<Bf16> x) {
  std::transform(x.begin(), x.end(), x.begin(),
                 [](Bf16 v) { return Bf16{__half_as_ushort(__float2half(to_float(v)))}; });
  return x;
}

std::vector<Bf16> from_half_bits(std::vector<Bf16> x) {
  std::transform(x.begin(), x.end(), x.begin(),
                 [](Bf16 v) { return round_to_bf16(__half2float(__ushort_as_half(v.bits))); });
  return x;
}

// Uploads what the kernel reads, in its format.
void upload(Problem& p, Kernel kernel) {
  const auto in_format = [&](const std::vector<Bf16>& x) {
    return kernel == Kernel::kPortableHalf ? to_half_bits(x) : x;
  };
  p.d_q.upload(in_format(p.q));
  p.d_k.upload(in_format(p.k));
  p.d_v.upload(in_format(p.v));
  p.d_dout.upload(in_format(p.dout));
}

std::vector<Bf16> download(const DeviceArray<Bf16>& x, Kernel kernel) {
  return kernel == Kernel::kPortableHalf ? from_half_bits(x.download()) : x.download();
}

mma::Format format_of(Kernel kernel) {
  return kernel == Kernel::kPortableHalf ? mma::Format::kFp16 : mma::Format::kBf16;
}

struct ForwardOptions {
  bool with_gate = false;
  int64_t every = 1;
  Kernel kernel = Kernel::kHopper;
  int repeats = 3;
};

bool forward_holds(Problem& p, const ForwardOptions& options) {
  const auto& [with_gate, every, kernel, repeats] = options;
  const kernels::FineArgs args = p.forward_args(with_gate);
  DeviceArray<uint8_t> workspace(static_cast<std::size_t>(sm90::workspace_bytes(args)));
  upload(p, kernel);
  p.d_out.fill_bytes(0xFF);
  p.d_lse.fill_bytes(0xFF);
  const auto run = [&, kernel = kernel] {
    kernel == Kernel::kHopper ? sm90::block_attention(args, workspace.data(), nullptr)
                              : mma::block_attention(args, format_of(kernel), nullptr);
  };
  run();
  check(cudaDeviceSynchronize(), "block_attention");
  const Wanted wanted{.gate = with_gate, .every = every};
  const Results want = reference(p, Rounding::kNone, wanted);
  const Results plain = reference(p, Rounding::kAsKernel, wanted);
  const std::vector<Bf16> out = download(p.d_out, kernel);
  bool ok = holds("out", {gather(p, out, p.queries), plain.out, want.out, kBf16Ulp});
  ok &= holds("lse", {gather_lse(p, p.d_lse.download()), plain.lse, want.lse, kLseUlp});
  ok &= zero_without_token(p, out, p.queries);
  ok &= same_bits_again(run, p.d_out, repeats);
  return ok;
}

bool backward_holds(Problem& p, Kernel kernel, int repeats) {
  const kernels::FineBackwardArgs args = p.backward_args();
  DeviceArray<uint8_t> workspace(
      static_cast<std::size_t>(std::max(sm90::workspace_bytes(args), mma::workspace_bytes(args))));
  for (auto* gradient : {&p.d_dq, &p.d_dk, &p.d_dv}) {
    gradient->fill_bytes(0xFF);
  }
  const auto run = [&] {
    kernel == Kernel::kHopper
        ? sm90::block_attention_backward(args, workspace.data(), nullptr)
        : mma::block_attention_backward(args, format_of(kernel), workspace.data(), nullptr);
  };
  run();
  check(cudaDeviceSynchronize(), "block_attention_backward");
  const Wanted wanted{.gradients = true};
  const Results want = reference(p, Rounding::kNone, wanted);
  const Results plain = reference(p, Rounding::kAsKernel, wanted);
  bool ok =
      holds("dq", {gather(p, download(p.d_dq, kernel), p.queries), plain.dq, want.dq, kBf16Ulp});
  ok &= holds("dk", {gather(p, download(p.d_dk, kernel), p.keys), plain.dk, want.dk, kBf16Ulp});
  ok &= holds("dv", {gather(p, download(p.d_dv, kernel), p.keys), plain.dv, want.dv, kBf16Ulp});
  ok &= zero_without_token(p, download(p.d_dq, kernel), p.queries);
  ok &= zero_without_token(p, download(p.d_dk, kernel), p.keys);
  for (const auto* gradient : {&p.d_dq, &p.d_dk, &p.d_dv}) {
    ok &= same_bits_again(run, *gradient, repeats);
  }
  return ok;
}

// Means, then from the kernel's own means: scores, selection (a near tie may fall either way) and
// output.
bool coarse_holds(const Problem& p) {
  CoarseStage stage(p);
  stage.run(nullptr);
  check(cudaDeviceSynchronize(), "coarse stage");
  const CoarseResults got = stage.download();
  const CoarseResults want = coarse_reference(p, got);
  bool ok = true;
  const auto rounded = [](std::vector<double> x) {
    std::transform(x.begin(), x.end(), x.begin(),
                   [](double v) { return to_float(round_to_bf16(v)); });
    return x;
  };
  for (std::size_t i = 0; i < kernels::kPooled; ++i) {
    ok &= holds("mean", {got.means[i], rounded(want.means[i]), want.means[i], 0});
  }
  ok &= holds("coarse", {got.out, rounded(want.out), want.out, 0});
  const std::string wrong = wrong_selection(p, got, want);
  if (!wrong.empty()) {
    std::printf("  FAILED %s\n", wrong.c_str());
  }
  return ok && wrong.empty();
}

enum class Extent { kFirst, kSmall, kAll };

std::vector<Case> small_cases(Extent extent) {
  std::vector<Case> cases;
  cases.push_back({.name = "5x6x7",
                   .B = 1,
                   .H = 2,
                   .D = 128,
                   .K = 5,
                   .grid = {5, 6, 7},
                   .random_counts = true});
  cases.push_back({.name = "9x10x9, two batches",
                   .B = 2,
                   .H = 3,
                   .D = 128,
                   .K = 20,
                   .grid = {9, 10, 9},
                   .random_counts = true});
  cases.push_back(
      {.name = "8x8x8, all tiles", .B = 1, .H = 2, .D = 128, .K = 8, .grid = {8, 8, 8}});
  cases.push_back(
      {.name = "7x7x7, sides of 3", .B = 1, .H = 1, .D = 128, .K = 8, .grid = {7, 7, 7}});
  cases.push_back({.name = "9x7x11, head size 64",
                   .B = 2,
                   .H = 2,
                   .D = 64,
                   .K = 11,
                   .grid = {9, 7, 11},
                   .random_counts = true});
  cases.push_back({.name = "every size",
                   .B = 2,
                   .H = 3,
                   .D = 128,
                   .K = 9,
                   .grid = {0, 0, 0},
                   .q_sizes = {64, 1, 33, 64, 16, 7, 63},
                   .kv_sizes = {64, 64, 1, 63, 8, 16, 40, 64, 5, 57, 9},
                   .random_counts = true});
  cases.push_back({.name = "one tile",
                   .B = 1,
                   .H = 1,
                   .D = 128,
                   .K = 1,
                   .grid = {0, 0, 0},
                   .q_sizes = {64},
                   .kv_sizes = {64}});
  if (extent == Extent::kFirst) {
    cases.resize(1);
  }
  return cases;
}

int run(Extent extent) {
  const bool means = tile_mean_holds(), selection = block_select_holds();
  std::printf("%s tile_mean\n%s block_select\n", means ? "ok  " : "FAIL",
              selection ? "ok  " : "FAIL");
  bool all = means && selection;
  const int repeats = extent == Extent::kAll ? 3 : 0;  // a sanitizer sees all in one run
  for (const Case& c : small_cases(extent)) {
    for (const Order order : {Order::kTiled, Order::kTiledHeadMajor, Order::kRaster}) {
      if (order == Order::kRaster && c.grid.T == 0) {
        continue;
      }
      Problem p = make_problem(c, order, 11);
      const bool gated = forward_holds(p, {.with_gate = true, .repeats = repeats});
      const bool plain = forward_holds(p, {.repeats = repeats});  // its out and lse serve backward
      const bool backward = backward_holds(p, Kernel::kHopper, repeats);
      const auto portable_holds = [&](Kernel kernel) {
        return forward_holds(p, {.kernel = kernel, .repeats = repeats}) &&
               backward_holds(p, kernel, repeats);
      };
      const bool portable = order == Order::kRaster || (portable_holds(Kernel::kPortable) &&
                                                        portable_holds(Kernel::kPortableHalf));
      const bool coarse = order != Order::kRaster || coarse_holds(p);
      std::printf("%s %s %s: forward, gate, backward, portable kernels, coarse stage\n",
                  gated && plain && backward && portable && coarse ? "ok  " : "FAIL",
                  c.name.c_str(), name_of(order));
      all &= gated && plain && backward && portable && coarse;
    }
  }
  for (const Order order : {Order::kTiledHeadMajor, Order::kRaster}) {
    if (extent != Extent::kAll) {
      break;
    }
    const Case video{
        .name = "480x832x81", .B = 1, .H = 12, .D = 128, .K = 125, .grid = {21, 30, 52}};
    Problem p = make_problem(video, order, 5);
    const bool ok = forward_holds(p, {.every = 311});
    std::printf("%s %s %s: forward, sampled\n", ok ? "ok  " : "FAIL", video.name.c_str(),
                name_of(order));
    all &= ok;
  }
  std::printf("conformance %s\n", all ? "passed" : "FAILED");
  return all ? 0 : 1;
}

}  // namespace
}  // namespace fastwan::gpu

// conformance [small | first]: without the sizes of a video; the first case alone, for slow tools.
int main(int argc, char** argv) {
  using fastwan::gpu::Extent;
  const std::string wanted = argc > 1 ? argv[1] : "";
  return fastwan::gpu::run(wanted == "first"   ? Extent::kFirst
                           : wanted == "small" ? Extent::kSmall
                                               : Extent::kAll);
}
