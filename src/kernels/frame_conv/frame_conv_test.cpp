#include "kernels/frame_conv/frame_conv.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/aligned_allocator.h>

#include "kernels/common/every_target.h"

namespace fastwan::kernels {
namespace {

struct Case {
  FrameConvDims dims;
  int64_t absent = 0;       // leading null frames
  int64_t unused_taps = 0;  // of the stored weight, before those that count
  bool has_residual = false;
  int64_t gap = 0;  // floats between the pixels of the output
};

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Normal numbers by a linear congruence and the sum of twelve: any split of them is alike.
class Normal {
 public:
  explicit Normal(uint64_t seed) : state_(seed) {}
  float next(double scale) {
    double sum = -6;
    for (int i = 0; i < 12; ++i) {
      state_ = state_ * 6364136223846793005ULL + 1442695040888963407ULL;
      sum += static_cast<double>(state_ >> 40) * 0x1p-24;
    }
    return static_cast<float>(sum * scale);
  }

 private:
  uint64_t state_;
};

struct Problem {
  Case what;
  std::vector<std::vector<float>> frames;
  std::vector<float> weight, bias, residual;  // unused taps are NaN, as is what lies between pixels

  explicit Problem(const Case& c) : what(c) {
    const FrameConvDims& d = c.dims;
    Normal normal(7);
    const auto fill = [&](int64_t count, double scale) {
      std::vector<float> x(static_cast<std::size_t>(count));
      for (float& value : x) {
        value = normal.next(scale);
      }
      return x;
    };
    for (int64_t f = 0; f < d.F; ++f) {
      frames.push_back(fill(d.H * d.W * d.C, 1.0));
    }
    const int64_t taps = 9 * (d.D + c.unused_taps);
    weight = fill(d.N * d.C * taps, 1.0 / std::sqrt(static_cast<double>(9 * d.D * d.C)));
    for (std::size_t i = 0; i < weight.size(); ++i) {
      if (static_cast<int64_t>(i) % taps < 9 * c.unused_taps) {
        weight[i] = kNan;
      }
    }
    bias = fill(d.N, 1.0);
    residual = fill(out_floats(), 1.0);
  }

  int64_t out_pixel() const { return what.dims.N + what.gap; }
  int64_t out_floats() const {
    const FrameConvDims& d = what.dims;
    return (d.F - d.D + 1) * d.U * d.H * d.U * d.W * out_pixel();
  }

  // What `run` makes of the arguments in the type `Element`; NaN between pixels.
  template <class Element, class Run>
  std::vector<Element> run(const Run& run_it) const {
    const FrameConvDims& d = what.dims;
    const auto converted = [](const std::vector<float>& x) {
      return std::vector<Element>(x.begin(), x.end());
    };
    std::vector<std::vector<Element>> own_frames;
    std::vector<const Element*> pointers;
    for (const std::vector<float>& frame : frames) {
      own_frames.push_back(converted(frame));
      const bool is_absent = static_cast<int64_t>(pointers.size()) < what.absent;
      pointers.push_back(is_absent ? nullptr : own_frames.back().data());
    }
    const std::vector<Element> own_weight = converted(weight), own_bias = converted(bias);
    // The residual is the output's own memory.
    std::vector<Element> out = converted(residual);
    for (std::size_t i = 0; i < out.size(); ++i) {
      if (static_cast<int64_t>(i) % out_pixel() >= d.N) {
        out[i] = std::numeric_limits<Element>::quiet_NaN();
      }
    }
    const int64_t taps = 9 * (d.D + what.unused_taps);
    run_it(FrameConvArgs<Element>{.frames = pointers.data(),
                                  .weight = own_weight.data() + 9 * what.unused_taps,
                                  .weight_n = d.C * taps,
                                  .weight_c = taps,
                                  .bias = own_bias.data(),
                                  .residual = what.has_residual ? out.data() : nullptr,
                                  .out = out.data(),
                                  .out_pixel = out_pixel(),
                                  .dims = d});
    return out;
  }
};

// The sum in float32, in order.
void plain(const FrameConvArgs<float>& a) {
  const auto& [F, D, H, W, U, C, N] = a.dims;
  for (int64_t i = 0; i < (F - D + 1) * U * H * U * W; ++i) {
    const int64_t t = i / (U * H * U * W), y = i / (U * W) % (U * H), x = i % (U * W);
    for (int64_t n = 0; n < N; ++n) {
      float sum = 0;
      for (int64_t tap = 0; tap < 9 * D; ++tap) {
        const int64_t v = y + tap / 3 % 3 - 1, h = x + tap % 3 - 1;
        const float* frame = a.frames[t + tap / 9];
        if (v < 0 || v >= U * H || h < 0 || h >= U * W || frame == nullptr) {
          continue;
        }
        for (int64_t c = 0; c < C; ++c) {
          sum = std::fma(a.weight[n * a.weight_n + c * a.weight_c + tap],
                         frame[(v / U * W + h / U) * C + c], sum);
        }
      }
      float* out = a.out + i * a.out_pixel + n;
      *out = sum + a.bias[n] + (a.residual == nullptr ? 0.0F : *out);
    }
  }
}

void fast(const FrameConvArgs<float>& args) {
  const cpu::FrameConvPlan plan = cpu::plan_frame_conv(args.dims);
  const auto transformed =
      hwy::AllocateAligned<float>(static_cast<std::size_t>(plan.transformed_floats));
  const auto scratch = hwy::AllocateAligned<float>(static_cast<std::size_t>(plan.scratch_floats));
  std::fill_n(scratch.get(), plan.scratch_floats, kNan);
  // last pieces first: the order must not matter
  for (int64_t i = plan.weight_pieces; i-- > 0;) {
    cpu::transform_weights(args, transformed.get(), {.begin = i, .end = i + 1});
  }
  const int64_t middle = plan.blocks / 2;
  cpu::frame_conv(args, transformed.get(), scratch.get(), {.begin = middle, .end = plan.blocks});
  cpu::frame_conv(args, transformed.get(), scratch.get(), {.begin = 0, .end = middle});
}

// |x - want| / |want| over the values that are not NaN in `want`; those must be NaN in x.
double relative_l2(const std::vector<float>& x, const std::vector<double>& want) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (std::isnan(want[i])) {
      EXPECT_TRUE(std::isnan(x[i])) << "written between pixels, at " << i;
      continue;
    }
    error += (static_cast<double>(x[i]) - want[i]) * (static_cast<double>(x[i]) - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(error / size);
}

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {.dims = {.F = 3, .D = 3, .H = 8, .W = 12, .U = 1, .C = 16, .N = 16}},
      {.dims = {.F = 6, .D = 3, .H = 7, .W = 9, .U = 1, .C = 17, .N = 5},
       .absent = 1,
       .has_residual = true},
      {.dims = {.F = 1, .D = 1, .H = 1, .W = 1, .U = 1, .C = 24, .N = 40}, .unused_taps = 2},
      {.dims = {.F = 3, .D = 2, .H = 2, .W = 5, .U = 1, .C = 3, .N = 33},
       .absent = 1,
       .unused_taps = 1,
       .has_residual = true,
       .gap = 3},
      {.dims = {.F = 2, .D = 1, .H = 3, .W = 5, .U = 2, .C = 8, .N = 20}, .gap = 1},
      {.dims = {.F = 4, .D = 3, .H = 2, .W = 3, .U = 2, .C = 9, .N = 2}, .absent = 2},
      {.dims = {.F = 1, .D = 1, .H = 61, .W = 50, .U = 1, .C = 8, .N = 3}},  // many blocks
      {.dims = {.F = 4, .D = 3, .H = 8, .W = 8, .U = 1, .C = 96, .N = 32}},
  };
  return all;
}

TEST(FrameConv, IsAtMostTwiceAsFarFromTheReferenceAsTheSumInOrder) {
  for (const Case& c : cases()) {
    const Problem problem(c);
    const auto want =
        problem.run<double>([](const FrameConvArgs<double>& a) { ref::frame_conv(a); });
    const double bound = 2 * relative_l2(problem.run<float>(plain), want) + 0x1p-23;
    testing::on_every_target([&](const char* target) {
      EXPECT_LE(relative_l2(problem.run<float>(fast), want), bound)
          << target << ", case " << &c - cases().data();
    });
  }
}

TEST(FrameConv, AWrongTapOrAWrongBorderIsFoundOut) {
  const Problem problem({.dims = {.F = 2, .D = 2, .H = 4, .W = 4, .U = 1, .C = 8, .N = 8}});
  const auto want = problem.run<double>([](const FrameConvArgs<double>& a) { ref::frame_conv(a); });
  Problem swapped = problem;
  std::swap(swapped.frames[0], swapped.frames[1]);
  EXPECT_GT(relative_l2(swapped.run<float>(fast), want), 0.1);
  Problem border = problem;
  border.frames[1][0] += 1.0F;  // one channel of one corner
  EXPECT_GT(relative_l2(border.run<float>(fast), want), 1e-3);
}

TEST(FrameConv, TheBitsDoNotDependOnTheFramesThatAreConvolvedTogether) {
  const Case c{.dims = {.F = 4, .D = 2, .H = 9, .W = 6, .U = 1, .C = 16, .N = 16}};
  const Problem whole(c);
  const std::vector<float> all = whole.run<float>(fast);
  Problem alone = whole;
  alone.what.dims.F = 2;
  alone.frames = {whole.frames[2], whole.frames[3]};
  alone.residual.resize(static_cast<std::size_t>(alone.out_floats()));
  const std::vector<float> last = alone.run<float>(fast);
  EXPECT_TRUE(std::equal(last.begin(), last.end(), all.end() - alone.out_floats()));
}

}  // namespace
}  // namespace fastwan::kernels
