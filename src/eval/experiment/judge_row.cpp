#include "eval/experiment/judge_row.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <optional>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/stack.h>

#include "base/check.h"
#include "base/text.h"
#include "data/latent_pool.h"
#include "eval/clip_set.h"
#include "eval/distances.h"
#include "eval/similarity.h"
#include "models/checkpoint.h"

namespace fastwan::eval {
namespace {

using namespace data::shapes;
using Clock = std::chrono::steady_clock;

// Sets are numbered apart by more clips than any holds.
constexpr int64_t kSlotsOfASet = 1 << 20;
constexpr int64_t kLatents = 512;  // clips whose latents are compared
constexpr int64_t kSheetClips = 8, kSheetFrames = 6;
constexpr int64_t kCaptions = 4096;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// [n, 3, F, P, Q] in [-1, 1] -> [n, F, 3, P, Q] in [0, 1] on the CPU.
at::Tensor to_unit(const at::Tensor& frames) {
  return frames.clamp(-1, 1)
      .add(1)
      .div(2)
      .permute({0, 2, 1, 3, 4})
      .to(at::kFloat)
      .cpu()
      .contiguous();
}

// The first clips of a row, one a line, frames from first to last.
class Sheet {
 public:
  void add(const at::Tensor& clips) {  // [n, F, 3, P, Q]
    const int64_t last = clips.size(1) - 1;
    for (int64_t i = 0; i < clips.size(0) && std::ssize(lines_) < kSheetClips; ++i) {
      std::vector<at::Tensor> frames;
      for (int64_t j = 0; j < kSheetFrames; ++j) {
        frames.push_back(clips[i][j * last / (kSheetFrames - 1)]);
      }
      lines_.push_back(at::cat(frames, /*dim=*/2));  // [3, P, frames * Q]
    }
  }

  io::Image image() const {
    const at::Tensor bytes =
        at::cat(lines_, /*dim=*/1).permute({1, 2, 0}).mul(255).round().to(at::kByte).contiguous();
    const uint8_t* first = bytes.const_data_ptr<uint8_t>();
    return {bytes.size(1), bytes.size(0), {first, first + bytes.numel()}};
  }

 private:
  std::vector<at::Tensor> lines_;
};

// What one set of clips leaves behind.
struct SetPass {
  ClipSet clips;
  std::vector<at::Tensor> features;  // [n, 64] each, on the CPU
  std::vector<at::Tensor> latents;   // [n, C * T * H * W] each, on the CPU; the first kLatents
  std::vector<double> psnr;
  double seconds_making = 0;
};

class RowJudge {
 public:
  RowJudge(const config::Evaluation& evaluation,
           const std::string& name,
           ClipMaker& maker,
           const Reference& reference,
           const Watch& watch,
           int64_t total)
      : evaluation_(evaluation),
        name_(name),
        maker_(maker),
        reference_(reference),
        watch_(watch),
        total_(total) {}

  SetPass look_at(const PromptSet& prompts, bool is_shown) {
    SetPass pass;
    std::future<void> detection;  // of the batch before, while the device makes the next
    for (int64_t first = 0; first < prompts.size(); first += evaluation_.batch) {
      const int64_t count = std::min(evaluation_.batch, prompts.size() - first);
      const auto start = Clock::now();
      const MadeClips made = maker_.make(prompts, first, count, watch_);
      const at::Tensor unit = to_unit(made.frames);
      pass.seconds_making += seconds_since(start);
      pass.features.push_back(reference_.net->features(made.frames.clamp(-1, 1)).cpu());
      if (made.latents.defined() && first < kLatents) {
        pass.latents.push_back(made.latents.flatten(1).cpu());
      }
      if (made.original.defined()) {
        const at::Tensor original = to_unit(made.original);
        for (int64_t i = 0; i < count; ++i) {
          pass.psnr.push_back(psnr(unit[i], original[i]));
        }
      }
      if (is_shown) {
        sheet_.add(unit);
      }
      const auto detect = [&pass, unit, wanted = prompts.wanted(first, count)] {
        const at::NoGradGuard no_grad;
        pass.clips.add_all(unit, wanted);
      };
      if (made.frames.is_cpu()) {
        detect();
      } else {
        if (detection.valid()) {
          detection.get();
        }
        detection = std::async(std::launch::async, detect);
      }
      done_ += count;
      watch_.report(name_.c_str(), done_, total_);
    }
    if (detection.valid()) {
      detection.get();
    }
    return pass;
  }
  io::Image sheet() const { return sheet_.image(); }

 private:
  const config::Evaluation& evaluation_;
  const std::string& name_;
  ClipMaker& maker_;
  const Reference& reference_;
  const Watch& watch_;
  int64_t total_, done_ = 0;
  Sheet sheet_;
};

Json to_json(const ChiSquared& test) {
  return {{"statistic", test.statistic}, {"freedom", test.freedom}, {"p", test.p}};
}

Json repeated_numbers(const config::Evaluation& evaluation, const ClipSet& clips) {
  const Format format = format_of(evaluation);
  const std::vector<NuisanceSample>& samples = clips.samples();
  std::vector<std::vector<NuisanceSample>> prompts;
  for (auto at = samples.begin(); at != samples.end(); at += evaluation.samples_per_prompt) {
    prompts.emplace_back(at, at + evaluation.samples_per_prompt);
  }
  return {{"prompts", prompts.size()},
          {"clips", samples.size()},
          {"position_spread", position_spread(format, prompts)},
          {"starts", to_json(test_starts(format, samples))},
          {"rotations", to_json(test_rotations(samples))},
          {"angles", to_json(test_angles(samples))}};
}

Json distance_numbers(const at::Tensor& features,
                      const std::vector<at::Tensor>& latents,
                      const Reference& reference) {
  const Manifold manifold = compare_manifolds(reference.features, features);
  Json out = {
      {"frechet", eval::to_json(frechet_distance(features, reference.features, Bootstrap{}))},
      {"kid", eval::to_json(kernel_distance(features, reference.features))},
      {"precision", manifold.precision},
      {"recall", manifold.recall},
      {"coverage", manifold.coverage}};
  if (!latents.empty()) {
    out["latents_wasserstein"] =
        sliced_wasserstein(at::cat(latents).slice(0, 0, kLatents), reference.latents, {});
  }
  return out;
}

Json shares(const std::vector<const ClipSet*>& sets) {
  AttributeScore score;
  for (const ClipSet* set : sets) {
    for (const NuisanceSample& sample : set->samples()) {
      score.add(sample.wanted, sample.found);
    }
  }
  Json out = Json::object();
  for (std::size_t i = 0; i < kNumAttributes; ++i) {
    out[kAttributeNames[i]] = eval::to_json(score.of(i));
  }
  return out;
}

// Hits of answers, [n] class indices for each attribute, as shares.
Json shares(const std::vector<at::Tensor>& logits, const std::vector<Attributes>& wanted) {
  Json out = Json::object();
  for (std::size_t a = 0; a < kNumAttributes; ++a) {
    const at::Tensor answers = logits[a].argmax(1).cpu();  // [n] int64
    int64_t right = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      right += answers.const_data_ptr<int64_t>()[i] == labels_of(wanted[i])[a] ? 1 : 0;
    }
    out[kAttributeNames[a]] = eval::to_json(wilson(right, static_cast<int64_t>(wanted.size())));
  }
  return out;
}

}  // namespace

PromptSets draw_prompt_sets(const config::Evaluation& e) {
  const int64_t beyond_reference = 2 * e.samples;
  return {.seen = draw_prompts(e, kEvaluation, 0, e.samples, 0),
          .held_out = draw_prompts(e, kEvaluationHeldOut, 0, e.samples, kSlotsOfASet),
          .repeated = draw_repeated(e, beyond_reference, e.prompts, e.samples_per_prompt,
                                    2 * kSlotsOfASet)};
}

Reference make_reference(const config::Evaluation& e,
                         const SharedParts& parts,
                         const Watch& watch) {
  const at::NoGradGuard no_grad;
  Reference out;
  out.net =
      models::load_shape_features(e.features, at::TensorOptions(at::kFloat).device(parts.device));
  const config::EvaluationRow rendered{.clips = config::ClipsFrom::kRendered};
  const std::unique_ptr<ClipMaker> maker = make_clip_maker(e, rendered, parts);
  std::vector<at::Tensor> features, latents;
  int64_t done = 0;
  for (const IndexRange& range : {kEvaluation, kEvaluationHeldOut}) {
    const PromptSet clips = draw_prompts(e, range, e.samples, e.samples, 0);
    for (int64_t first = 0; first < clips.size(); first += e.batch) {
      const int64_t count = std::min(e.batch, clips.size() - first);
      const MadeClips made = maker->make(clips, first, count, watch);
      features.push_back(out.net->features(made.frames).cpu());
      if (done < std::min(kLatents, e.samples)) {
        latents.push_back(made.latents.flatten(1).cpu());
      }
      done += count;
      watch.report("reference", done, 2 * e.samples);
    }
  }
  out.features = at::cat(features);
  out.latents = at::cat(latents).slice(0, 0, std::min(kLatents, e.samples));
  return out;
}

JudgedRow judge_row(const config::Evaluation& evaluation,
                    const std::string& name,
                    ClipMaker& maker,
                    const PromptSets& prompts,
                    const Reference& reference,
                    const Watch& watch) {
  const at::NoGradGuard no_grad;
  const auto start = Clock::now();
  const int64_t total = prompts.seen.size() + prompts.held_out.size() + prompts.repeated.size();
  RowJudge judge(evaluation, name, maker, reference, watch, total);
  const SetPass seen = judge.look_at(prompts.seen, /*is_shown=*/true);
  const SetPass held_out = judge.look_at(prompts.held_out, false);
  const SetPass repeated = judge.look_at(prompts.repeated, false);

  std::vector<at::Tensor> features = seen.features;
  features.insert(features.end(), held_out.features.begin(), held_out.features.end());
  JudgedRow row;
  row.numbers = {
      {"evaluations", maker.evaluations()},
      {"clips", total},
      {"seconds_making", seen.seconds_making + held_out.seconds_making + repeated.seconds_making},
      {"seen", seen.clips.to_json()},
      {"held_out", held_out.clips.to_json()},
      {"either", shares({&seen.clips, &held_out.clips})},
      {"distances", distance_numbers(at::cat(features), seen.latents, reference)},
      {"repeated", repeated_numbers(evaluation, repeated.clips)}};
  if (!seen.psnr.empty()) {
    row.numbers["psnr"] = mean_and_std(seen.psnr).mean;
  }
  Json detected = Json::array();
  for (const NuisanceSample& sample : seen.clips.samples()) {
    detected.push_back(sample.found.is_found ? code_of(sample.found.attributes) : -1);
  }
  row.numbers["detected"] = std::move(detected);
  row.numbers["seconds"] = seconds_since(start);
  row.sheet = judge.sheet();
  return row;
}

Json judge_feature_net(const config::Evaluation& e,
                       const models::ShapeFeatures& net,
                       const SharedParts& parts,
                       const PromptSet& prompts,
                       const Watch& watch) {
  const at::NoGradGuard no_grad;
  const config::EvaluationRow rendered{.clips = config::ClipsFrom::kRendered};
  const std::unique_ptr<ClipMaker> maker = make_clip_maker(e, rendered, parts);
  std::vector<at::Tensor> features;
  for (int64_t first = 0; first < prompts.size(); first += e.batch) {
    const int64_t count = std::min(e.batch, prompts.size() - first);
    features.push_back(net.features(maker->make(prompts, first, count, watch).frames));
  }
  return shares(net.logits(at::cat(features)), prompts.wanted(0, prompts.size()));
}

int64_t captions_judged(const config::Evaluation& e) {
  return std::min(kCaptions, 64 * e.samples);
}

Json judge_text_heads(const config::Evaluation& e, const SharedParts& parts) {
  const at::NoGradGuard no_grad;
  const int64_t count = captions_judged(e);
  const PromptSet prompts = draw_prompts(e, kEvaluation, 0, count, 0);
  std::vector<std::string> captions;
  for (const Scene& scene : prompts.scenes) {
    captions.push_back(scene.caption);
  }
  std::vector<at::Tensor> pooled;  // [D] each, mean over the caption's tokens
  for (const at::Tensor& text :
       data::encode_captions(captions, *parts.text_encoder, *parts.tokenizer, parts.device)) {
    pooled.push_back(text.mean(0).cpu());
  }
  const at::Tensor states = at::stack(pooled);  // [n, D]
  const io::SafetensorsFile file = io::SafetensorsFile::open(e.text_heads);
  const auto read = [&file, &e](const std::string& name) {
    const auto tensor = file.find(name);
    if (!tensor) {
      throw InvalidInput(Code::kBadTensor,
                         str(e.text_heads, ": has no ", name, ", a head of the text encoder"));
    }
    return models::read_tensor(file, *tensor).to(at::kFloat);
  };
  std::vector<at::Tensor> logits;
  for (const char* attribute : kAttributeNames) {
    const std::string head = str("heads.", attribute);
    logits.push_back(at::linear(states, read(head + ".weight"), read(head + ".bias")));
  }
  return shares(logits, prompts.wanted(0, count));
}

}  // namespace fastwan::eval
