// The names of what `eval run` can measure; torch-free, for whoever parses them.
#pragma once

#include <array>
#include <string_view>

namespace fastwan::eval {

enum class Needs {
  kVideos,    // each set by itself; a reference adds its own figure
  kPairs,     // videos of equal names in both sets
  kFeatures,  // feature vectors of both sets
};

struct MetricInfo {
  std::string_view name;
  Needs needs;
  std::string_view about;
};

inline constexpr std::array kMetrics = {
    MetricInfo{"psnr", Needs::kPairs, "peak signal-to-noise ratio in dB, mean over pairs"},
    MetricInfo{"ssim", Needs::kPairs, "structural similarity, mean over pairs; 1 is equal"},
    MetricInfo{"mse", Needs::kPairs, "mean squared error of values in [0, 1], mean over pairs"},
    MetricInfo{"flicker", Needs::kVideos, "mean absolute second difference over time"},
    MetricInfo{"frechet", Needs::kFeatures, "Frechet distance of Gaussians fitted to the features"},
    MetricInfo{"kid", Needs::kFeatures, "kernel distance, cubic kernel, unbiased: 0 is equal"},
    MetricInfo{"precision", Needs::kFeatures, "share of videos that look like reference ones"},
    MetricInfo{"recall", Needs::kFeatures, "share of reference videos that the videos reach"},
    MetricInfo{"coverage", Needs::kFeatures, "share of reference videos with a video nearby"},
    MetricInfo{"wasserstein", Needs::kFeatures, "sliced 2-Wasserstein distance of the features"},
    MetricInfo{"attributes", Needs::kVideos,
               "what procedural clips show: accuracy against their codes, else agreement with the "
               "reference video of the same name"}};

}  // namespace fastwan::eval
