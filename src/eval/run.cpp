#include "eval/run.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/shape.h"
#include "base/text.h"
#include "eval/clip_set.h"
#include "eval/distances.h"
#include "eval/metrics.h"
#include "eval/report.h"
#include "eval/similarity.h"
#include "eval/temporal.h"
#include "eval/video_set.h"
#include "io/contact_sheet.h"
#include "models/checkpoint.h"
#include "models/shape_features.h"

namespace fastwan::eval {
namespace {

constexpr int64_t kFewVideos = 256;  // below, a Frechet distance says little
constexpr int64_t kShownVideos = 4;  // contact sheets in the report
constexpr int64_t kSheetColumns = 6;
constexpr int64_t kSheetWidth = 160;  // pixels of a frame

using Asked = std::set<std::string_view>;

bool asks(const Asked& asked, Needs needs) {
  return std::any_of(kMetrics.begin(), kMetrics.end(), [&](const MetricInfo& metric) {
    return metric.needs == needs && asked.contains(metric.name);
  });
}

void require_no_reference(const Asked& asked, Needs needs, const char* why) {
  for (const MetricInfo& metric : kMetrics) {
    if (metric.needs == needs && asked.contains(metric.name)) {
      throw InvalidInput(
          Code::kUsage, str("--metrics ", metric.name, " ", why,
                            ": add --reference PATH. Without one there are flicker, and attributes "
                            "where the videos' files hold `codes`"));
    }
  }
}

Asked checked_metrics(const RunRequest& request) {
  Asked asked;
  std::vector<std::string> known;
  for (const MetricInfo& metric : kMetrics) {
    known.emplace_back(metric.name);
  }
  for (const std::string& name : request.metrics) {
    const auto found = std::find_if(kMetrics.begin(), kMetrics.end(),
                                    [&](const MetricInfo& metric) { return metric.name == name; });
    if (found == kMetrics.end()) {
      const auto guess = nearest(name, known);
      throw InvalidInput(
          Code::kBadValue,
          str("--metrics: no metric is called ", escape_control(name), ".",
              guess ? " Did you mean " + *guess + "?" : " `fastwan eval list` shows them"));
    }
    asked.insert(found->name);
  }
  if (asked.empty()) {
    throw InvalidInput(Code::kBadValue,
                       "--metrics names no metric. `fastwan eval list` shows them");
  }
  return asked;
}

void check_inputs(const Asked& asked, const RunRequest& request) {
  if (asks(asked, Needs::kFeatures) && request.features.empty()) {
    throw InvalidInput(
        Code::kBadValue,
        "frechet, kid, precision, recall, coverage and wasserstein compare features. "
        "Say --features FILE: weights of the feature net, or `videos` [n, d] and "
        "`reference` [m, d] made elsewhere");
  }
  if (request.reference.empty()) {
    require_no_reference(asked, Needs::kPairs, "compares videos of equal names");
  }
}

// Where feature vectors come from.
struct FeatureSource {
  std::shared_ptr<models::ShapeFeatures> net;  // or
  at::Tensor videos, reference;                // made elsewhere
  Json name;                                   // what the report says
};

FeatureSource open_features(const RunRequest& request) {
  const io::SafetensorsFile file = io::SafetensorsFile::open(request.features);
  FeatureSource source;
  source.name = {{"file", request.features.string()}, {"sha256", sha256_file(request.features)}};
  const auto videos = file.find("videos"), reference = file.find("reference");
  if (videos && reference) {
    Shapes shapes(request.features.string());
    shapes.expect("videos", videos->shape, "n d");
    shapes.expect("reference", reference->shape, "m d");
    if (shapes["d"] == 0) {
      throw InvalidInput(Code::kBadTensor,
                         str(request.features.string(), ": features of no width"));
    }
    source.videos = models::read_tensor(file, *videos);
    source.reference = models::read_tensor(file, *reference);
    source.name["kind"] = "features made elsewhere";
  } else {
    source.net = models::load_shape_features(request.features,
                                             at::TensorOptions(at::kFloat).device(request.device));
    source.name["kind"] = "feature net of procedural clips, 64 features";
  }
  return source;
}

// What one pass over a set leaves.
struct Pass {
  std::vector<at::Tensor> features;  // [1, 64] each
  std::vector<double> flicker;
  std::map<std::string, Detection> found;  // by name
  std::vector<std::pair<std::string, io::Image>> sheets;
};

io::Image contact_sheet(const at::Tensor& frames) {
  const int64_t height = frames.size(2), width = frames.size(3);
  const io::FrameSize shown{std::min(width, kSheetWidth),
                            std::max<int64_t>(1, height * std::min(width, kSheetWidth) / width)};
  io::ContactSheet sheet({.columns = kSheetColumns,
                          .rows = 1,
                          .frame = shown,
                          .num_frames = frames.size(0),
                          .fps = 1});
  for (int64_t frame = 0; frame < frames.size(0); ++frame) {
    const at::Tensor bytes =
        frames[frame].permute({1, 2, 0}).mul(255).round().to(at::kByte).contiguous();  // [P, Q, 3]
    const uint8_t* from = bytes.const_data_ptr<uint8_t>();
    const io::Image whole{width, height, {from, from + height * width * 3}};
    sheet.add(io::resize_lanczos(whole, shown).rgb);
  }
  return sheet.image();
}

class Runner {
 public:
  Runner(const RunRequest& request,
         const Watch& watch,
         const std::function<void(const std::string&)>& on_note)
      : request_(request),
        watch_(watch),
        on_note_(on_note),
        asked_(checked_metrics(request)),
        videos_(request.videos, {request.venvs, request.fps, watch.stop}) {
    check_inputs(asked_, request);
    if (!request.reference.empty()) {
      reference_.emplace(request.reference,
                         VideoSetOptions{request.venvs, request.fps, watch.stop});
    }
    if (asks(asked_, Needs::kFeatures)) {
      features_ = open_features(request);
      if (features_.net && !reference_) {
        require_no_reference(asked_, Needs::kFeatures,
                             "compares with the features of other videos");
      }
      require_samples();
    }
    if (has("attributes")) {
      require_wanted();
    }
  }

  Json run();

 private:
  bool has(std::string_view metric) const { return asked_.contains(metric); }
  void require_wanted() const;
  void require_samples() const;
  Pass look_at(const VideoSet& set, const char* stage);
  void measure(const at::Tensor& frames, const std::string& name, Pass& pass);
  void compare_pairs();
  void compare_features(const Pass& videos, const Pass& reference);
  void judge_attributes(const Pass& videos, const Pass& reference);
  void write(const Pass& videos, const Pass& reference) const;

  const RunRequest& request_;
  const Watch& watch_;
  const std::function<void(const std::string&)>& on_note_;
  Asked asked_;
  VideoSet videos_;
  std::optional<VideoSet> reference_;  // none: no asked metric compares
  FeatureSource features_;
  Json document_;
};

constexpr int64_t kFewestForManifolds = 6;  // five neighbours and the sample itself

struct FeatureMeasure {
  const char* name;
  int64_t fewest;  // samples of a set
  std::function<Json(const at::Tensor& videos, const at::Tensor& reference)> of;
};

std::vector<FeatureMeasure> feature_measures() {
  return {{"frechet", 2,
           [](const at::Tensor& a, const at::Tensor& b) {
             return to_json(frechet_distance(a, b, Bootstrap{}));
           }},
          {"kid", 3,
           [](const at::Tensor& a, const at::Tensor& b) { return to_json(kernel_distance(a, b)); }},
          {"precision", kFewestForManifolds,
           [](const at::Tensor& a, const at::Tensor& b) {
             return Json{{"value", compare_manifolds(b, a).precision}};
           }},
          {"recall", kFewestForManifolds,
           [](const at::Tensor& a, const at::Tensor& b) {
             return Json{{"value", compare_manifolds(b, a).recall}};
           }},
          {"coverage", kFewestForManifolds,
           [](const at::Tensor& a, const at::Tensor& b) {
             return Json{{"value", compare_manifolds(b, a).coverage}};
           }},
          {"wasserstein", 1, [](const at::Tensor& a, const at::Tensor& b) {
             return Json{{"value", sliced_wasserstein(a, b, {})}};
           }}};
}

// Before hours of decoding.
void Runner::require_samples() const {
  const int64_t n = features_.net ? videos_.size() : features_.videos.size(0);
  const int64_t m = features_.net ? reference_->size() : features_.reference.size(0);
  for (const FeatureMeasure& measure : feature_measures()) {
    if (has(measure.name) && std::min(n, m) < measure.fewest) {
      throw InvalidInput(Code::kBadMedia, str("--metrics ", measure.name, " needs ", measure.fewest,
                                              " videos or more in each set, got ", n, " and ", m));
    }
  }
}

// Attributes are held against what clips were asked for, else against the reference's clip.
void Runner::require_wanted() const {
  int64_t without = 0;
  for (int64_t i = 0; i < videos_.size(); ++i) {
    const bool has_partner = reference_ && reference_->find(videos_.name(i));
    without += videos_.wanted(i) || has_partner ? 0 : 1;
  }
  if (without == videos_.size() && reference_) {
    throw InvalidInput(
        Code::kBadMedia,
        str("--metrics attributes holds videos against their codes, or against "
            "reference videos of equal names. ",
            request_.videos.string(), " has no codes, and shares no name with ",
            request_.reference.string(), "; the first are ", escape_control(videos_.name(0)),
            " and ", escape_control(reference_->name(0))));
  }
  if (without == videos_.size()) {
    throw InvalidInput(
        Code::kUsage,
        str("--metrics attributes has nothing to hold ", request_.videos.string(),
            " against: add --reference PATH with videos of the same names, or `codes` [N] (int64), "
            "what each clip was asked for, beside `frames` in the safetensors files"));
  }
  if (without > 0) {
    on_note_(str("attributes: ", without, " of ", videos_.size(), " videos have no codes",
                 reference_ ? ", nor a reference video of their name," : "", " and are left out"));
  }
}

void Runner::measure(const at::Tensor& frames, const std::string& name, Pass& pass) {
  if (features_.net) {
    const at::Tensor clip = frames.transpose(0, 1).unsqueeze(0).to(request_.device);
    pass.features.push_back(features_.net->features(clip * 2 - 1).cpu());
  }
  if (has("flicker")) {
    pass.flicker.push_back(flicker(frames));
  }
  if (has("attributes")) {
    pass.found.emplace(name, detect(frames));
  }
}

// What a measure refuses is said with the video's name: there may be thousands.
template <class Measure>
auto named(const std::string& name, const Measure& measure) {
  try {
    return measure();
  } catch (const InvalidInput& error) {
    throw InvalidInput(error.code(), str(escape_control(name), ": ", error.what()));
  }
}

// Every video once, except what pairs want.
Pass Runner::look_at(const VideoSet& set, const char* stage) {
  Pass pass;
  const bool needs_frames =
      features_.net || has("flicker") || has("attributes") || !request_.output.empty();
  for (int64_t i = 0; needs_frames && i < set.size(); ++i) {
    watch_.throw_if_stopped();
    const at::Tensor frames = set.frames(i);  // [F, 3, P, Q]
    const std::string& name = set.name(i);
    named(str(stage, ", ", name), [&] { measure(frames, name, pass); });
    if (!request_.output.empty() && i < kShownVideos) {
      pass.sheets.emplace_back(name, contact_sheet(frames));
    }
    watch_.report(stage, i + 1, set.size());
  }
  return pass;
}

std::string shape_text(const at::Tensor& video) {
  return format_shape({video.sizes().data(), video.sizes().size()});
}

Json summary(const std::vector<double>& values) {
  if (values.empty()) {
    return {{"count", 0}};
  }
  const MeanAndStd spread = mean_and_std(values);
  const double error = spread.std / std::sqrt(static_cast<double>(values.size()));
  Json out = {{"value", spread.mean}};
  if (values.size() > 1) {  // one value has no spread to tell an interval from
    out = to_json(Estimate{spread.mean, spread.mean - kZ95 * error, spread.mean + kZ95 * error});
  }
  out["count"] = values.size();
  return out;
}

void Runner::compare_pairs() {
  struct Measure {
    const char* name;
    double (*of)(const at::Tensor&, const at::Tensor&);
  };
  constexpr std::array kMeasures = {Measure{"psnr", psnr}, Measure{"ssim", ssim},
                                    Measure{"mse", mse}};
  std::map<std::string, std::vector<double>> values;
  Json pairs = Json::array(), unpaired = Json::array();
  int64_t equal = 0;
  for (int64_t i = 0; i < videos_.size(); ++i) {
    watch_.throw_if_stopped();
    const std::string& name = videos_.name(i);
    const auto partner = reference_->find(name);
    if (!partner) {
      unpaired.push_back(name);
      continue;
    }
    const at::Tensor video = videos_.frames(i), reference = reference_->frames(*partner);
    if (video.sizes() != reference.sizes()) {
      throw InvalidInput(
          Code::kSizeMismatch,
          str(name, ": the video is ", shape_text(video), ", its reference ",
              format_shape(reference.sizes()), " (frames, 3, height, width). Pairs must be alike"));
    }
    Json pair = {{"name", name}};
    for (const Measure& measure : kMeasures) {
      if (has(measure.name)) {
        const double value = named(name, [&] { return measure.of(video, reference); });
        pair[measure.name] = std::isfinite(value) ? Json(value) : Json("infinite");
        if (std::isfinite(value)) {
          values[measure.name].push_back(value);
        } else {
          ++equal;
        }
      }
    }
    pairs.push_back(std::move(pair));
    watch_.report("pairs", i + 1, videos_.size());
  }
  if (pairs.empty()) {
    throw InvalidInput(
        Code::kBadMedia,
        str("psnr, ssim and mse compare videos of equal names, and ", request_.videos.string(),
            " and ", request_.reference.string(), " share none; the first are ", videos_.name(0),
            " and ", reference_->name(0)));
  }
  for (const Measure& measure : kMeasures) {
    if (has(measure.name)) {
      document_["metrics"][measure.name] = summary(values[measure.name]);
    }
  }
  if (equal > 0) {
    Json& entry = document_["metrics"]["psnr"];
    entry["equal_pairs"] = equal;
    if (!entry.contains("value")) {
      entry["value"] = "infinite";
    }
    on_note_(str(equal,
                 " pairs are equal in every value; their PSNR is infinite and left out of "
                 "the mean"));
  }
  document_["pairs"] = std::move(pairs);
  document_["unpaired"] = std::move(unpaired);
}

void Runner::compare_features(const Pass& videos, const Pass& reference) {
  const at::Tensor a = features_.net ? at::cat(videos.features) : features_.videos;        // [n, d]
  const at::Tensor b = features_.net ? at::cat(reference.features) : features_.reference;  // [m, d]
  if (std::min(a.size(0), b.size(0)) < kFewVideos) {
    on_note_(str("distances of features from ", a.size(0), " and ", b.size(0),
                 " videos are rough: at least ", kFewVideos, ", better 2048"));
  }
  const at::Tensor even = b.slice(0, 0, b.size(0), 2), odd = b.slice(0, 1, b.size(0), 2);
  for (const FeatureMeasure& measure : feature_measures()) {
    if (!has(measure.name)) {
      continue;
    }
    watch_.throw_if_stopped();
    Json& entry = document_["metrics"][measure.name];
    entry = measure.of(a, b);
    if (odd.size(0) >= kFewestForManifolds) {
      entry["floor"] = measure.of(odd, even)["value"];
    }
  }
  document_["features"] = features_.name;
  document_["features"]["width"] = a.size(1);
}

void Runner::judge_attributes(const Pass& videos, const Pass& reference) {
  AttributeScore score;
  int64_t from_codes = 0, empty = 0;
  for (int64_t i = 0; i < videos_.size(); ++i) {
    const std::string& name = videos_.name(i);
    const auto code = videos_.wanted(i);
    const auto partner = reference.found.find(name);
    if (code) {
      score.add(*code, videos.found.at(name));
      ++from_codes;
    } else if (partner != reference.found.end()) {
      empty += partner->second.is_found ? 0 : 1;
      if (partner->second.is_found) {
        score.add(partner->second.attributes, videos.found.at(name));
      }
    }
  }
  if (empty > 0) {
    on_note_(str("attributes: in ", empty,
                 " reference videos no object is seen; their partners are left out"));
  }
  constexpr const char* kPartners = "reference videos of the same names";
  Json& entry = document_["metrics"]["attributes"];
  entry = {{"count", score.count()},
           {"against", from_codes == 0               ? kPartners
                       : from_codes == score.count() ? "codes"
                                                     : str("codes, else ", kPartners)}};
  for (std::size_t i = 0; i < data::shapes::kNumAttributes; ++i) {
    entry[data::shapes::kAttributeNames[i]] = to_json(score.of(i));
  }
  entry["all_correct"] = to_json(score.all_correct());
}

void Runner::write(const Pass& videos, const Pass& reference) const {
  Report report("fastwan eval");
  std::string sets = str(videos_.size(), " videos of ", request_.videos.string());
  if (reference_) {
    sets += str(" against ", reference_->size(), " of ", request_.reference.string());
  }
  report.paragraph(sets);
  std::vector<std::vector<std::string>> rows;
  std::vector<Bar> shares;
  const auto cell = [](const Json& entry, const char* key) {
    return !entry.contains(key)     ? std::string()
           : entry[key].is_string() ? entry[key].get<std::string>()
           : entry[key].is_number() ? format_metric(entry[key].get<double>())
                                    : std::string();
  };
  for (const auto& [name, entry] : document_["metrics"].items()) {
    if (entry.contains("value")) {
      rows.push_back({name, cell(entry, "value"), cell(entry, "low"), cell(entry, "high"),
                      cell(entry, "floor")});
    }
    if (name == "attributes") {
      for (const auto& [attribute, share] : entry.items()) {
        if (share.is_object()) {
          shares.push_back({attribute,
                            {share["value"].get<double>(), share["low"].get<double>(),
                             share["high"].get<double>()}});
        }
      }
    }
  }
  report.table({"metric", "value", "95 % low", "95 % high", "two halves of the reference"}, rows);
  if (document_["features"].is_object()) {
    report.paragraph(str("Features: ", document_["features"]["kind"].get<std::string>(), ", ",
                         document_["features"]["file"].get<std::string>()));
  }
  if (!shares.empty()) {
    report.heading("Attributes of procedural clips");
    report.bars("share of clips, with Wilson's 95 % interval", shares, 1);
  }
  report.heading("Videos");
  for (const auto& [name, sheet] : videos.sheets) {
    report.picture(name, sheet);
  }
  if (reference_) {
    report.heading("Reference");
  }
  for (const auto& [name, sheet] : reference.sheets) {
    report.picture(name, sheet);
  }
  write_report(request_.output, report, document_);
}

Json Runner::run() {
  const at::NoGradGuard no_grad;
  document_ = {{"videos", {{"path", request_.videos.string()}, {"count", videos_.size()}}},
               {"reference", nullptr},
               {"features", nullptr},
               {"metrics", Json::object()}};
  if (reference_) {
    document_["reference"] = {{"path", request_.reference.string()}, {"count", reference_->size()}};
  }
  const Pass videos = look_at(videos_, "videos");
  const Pass reference = reference_ ? look_at(*reference_, "reference") : Pass{};
  if (asks(asked_, Needs::kPairs)) {
    compare_pairs();
  }
  if (has("flicker")) {
    document_["metrics"]["flicker"] = summary(videos.flicker);
    if (reference_) {
      document_["metrics"]["flicker"]["floor"] = mean_and_std(reference.flicker).mean;
    }
  }
  if (asks(asked_, Needs::kFeatures)) {
    compare_features(videos, reference);
  }
  if (has("attributes")) {
    judge_attributes(videos, reference);
  }
  if (!request_.output.empty()) {
    write(videos, reference);
  }
  return std::move(document_);
}

}  // namespace

Json run(const RunRequest& request,
         const Watch& watch,
         const std::function<void(const std::string&)>& on_note) {
  return Runner(request, watch, on_note).run();
}

}  // namespace fastwan::eval
