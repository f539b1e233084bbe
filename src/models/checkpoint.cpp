#include "models/checkpoint.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <optional>
#include <span>
#include <utility>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "base/check.h"
#include "base/shape.h"
#include "base/text.h"

namespace fastwan::models {
namespace {

constexpr int64_t kStagingBytes = 16 << 20;
constexpr std::size_t kMaxListed = 10;
constexpr int64_t kWordsOfATask = 1 << 16;

constexpr std::array<std::pair<io::Dtype, at::ScalarType>, 13> kTypes = {
    {{io::Dtype::kBool, at::kBool},
     {io::Dtype::kU8, at::kByte},
     {io::Dtype::kI8, at::kChar},
     {io::Dtype::kI16, at::kShort},
     {io::Dtype::kU16, at::kUInt16},
     {io::Dtype::kI32, at::kInt},
     {io::Dtype::kU32, at::kUInt32},
     {io::Dtype::kI64, at::kLong},
     {io::Dtype::kU64, at::kUInt64},
     {io::Dtype::kF16, at::kHalf},
     {io::Dtype::kBf16, at::kBFloat16},
     {io::Dtype::kF32, at::kFloat},
     {io::Dtype::kF64, at::kDouble}}};

std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.mutable_data_ptr()), tensor.nbytes()};
}

struct Join {
  std::map<std::string, io::WeightFiles::Entry> found;  // by parameter name
  std::vector<std::string> missing, unexpected, misshaped;
};

// What keeps a stored tensor from being the wanted one; empty if nothing does.
std::string misfit(const io::TensorInfo& stored, const layout::TensorSpec& wanted) {
  if (stored.shape != wanted.shape) {
    return str(escape_control(stored.name), " ", format_shape(stored.shape), ", wanted ",
               format_shape(wanted.shape));
  }
  if (!at::isFloatingType(scalar_type_of(stored.dtype))) {
    return str(escape_control(stored.name), " is ", io::name_of(stored.dtype),
               ", wanted a floating type");
  }
  return "";
}

Join join(const std::vector<layout::TensorSpec>& wanted,
          const io::WeightFiles& files,
          const LoadOptions& options) {
  Join out;
  std::map<std::string, std::string> stored;  // parameter name -> name in the file
  for (const std::string& name : files.names()) {
    if (options.is_ignored && options.is_ignored(name)) {
      continue;
    }
    const auto [at, is_new] = stored.emplace(options.rename ? options.rename(name) : name, name);
    if (!is_new) {
      out.unexpected.push_back(
          str(escape_control(name), " (the same as ", escape_control(at->second), ")"));
    }
  }
  for (const layout::TensorSpec& spec : wanted) {
    const auto at = stored.find(spec.name);
    if (at == stored.end()) {
      if (!options.may_be_missing || !options.may_be_missing(spec.name)) {
        out.missing.push_back(str(spec.name, " ", format_shape(spec.shape)));
      }
      continue;
    }
    const io::WeightFiles::Entry entry = *files.find(at->second);
    if (const std::string reason = misfit(*entry.tensor, spec); !reason.empty()) {
      out.misshaped.push_back(reason);
    }
    out.found.emplace(spec.name, entry);
    stored.erase(at);
  }
  for (const auto& [name, in_file] : stored) {
    out.unexpected.push_back(escape_control(in_file));
  }
  return out;
}

std::string listed(const char* what, const std::vector<std::string>& names) {
  return names.empty() ? ""
                       : str("; ", names.size(), " ", what, ": ", join_first(names, kMaxListed));
}

void refuse_unless_complete(const Join& joined, const io::WeightFiles& files) {
  if (joined.missing.empty() && joined.unexpected.empty() && joined.misshaped.empty()) {
    return;
  }
  throw InvalidInput(Code::kMissingWeights,
                     str(files.where().string(), ": the weights do not fit config.json",
                         listed("missing", joined.missing), listed("unexpected", joined.unexpected),
                         listed("of another shape or type", joined.misshaped),
                         ". Is the download complete and of one model?"));
}

// Whether any number has all bits of `exponent` set, which means NaN or infinity. In one pass over
// the words, without temporaries: the bar on memory while loading leaves no room for them.
template <class Word>
bool any_has(Word exponent, const at::Tensor& part) {
  const auto* words = static_cast<const Word*>(part.const_data_ptr());
  std::atomic<bool> found = false;
  at::parallel_for(0, part.numel(), kWordsOfATask, [&](int64_t begin, int64_t end) {
    Word any = 0;
    for (int64_t i = begin; i < end; ++i) {
      any = static_cast<Word>(any | ((words[i] & exponent) == exponent));
    }
    if (any != 0) {
      found = true;
    }
  });
  return found;
}

bool has_non_finite(const at::Tensor& part) {
  switch (part.scalar_type()) {
    case at::kHalf:
      return any_has<uint16_t>(0x7C00, part);
    case at::kBFloat16:
      return any_has<uint16_t>(0x7F80, part);
    case at::kFloat:
      return any_has<uint32_t>(0x7F800000, part);
    case at::kDouble:
      return any_has<uint64_t>(0x7FF0000000000000, part);
    default:
      return false;  // integers
  }
}

void refuse_non_finite(const at::Tensor& part, const io::WeightFiles::Entry& entry) {
  if (has_non_finite(part)) {
    throw InvalidInput(
        Code::kNonFiniteWeights,
        str(entry.file->path().string(), ": tensor \"", escape_control(entry.tensor->name),
            "\" holds NaN or infinity. Download again or run `fastwan inspect --digest`"));
  }
}

// Reads through one buffer, seen as the stored type; pinned for a GPU.
class Reader {
 public:
  explicit Reader(at::Device device) : device_(device) {}

  void in_parts(const io::WeightFiles::Entry& entry,
                const std::function<void(int64_t first, const at::Tensor& part)>& take) {
    if (!buffer_.defined()) {
      buffer_ =
          at::empty({kStagingBytes}, at::TensorOptions(at::kByte).pinned_memory(device_.is_cuda()));
    }
    const at::Tensor typed = buffer_.view(scalar_type_of(entry.tensor->dtype));
    const int64_t total = entry.tensor->num_elements();
    for (int64_t first = 0; first < total; first += typed.numel()) {
      const at::Tensor part = typed.narrow(0, 0, std::min(typed.numel(), total - first));
      read_part(entry, first, part);
      take(first, part);
    }
  }

  void fill(const at::Tensor& parameter, const io::WeightFiles::Entry& entry) {
    const at::Tensor to = parameter.detach().view({-1});
    if (to.is_cpu() && to.scalar_type() == scalar_type_of(entry.tensor->dtype)) {
      const int64_t step = kStagingBytes / io::size_of(entry.tensor->dtype);
      for (int64_t first = 0; first < to.numel(); first += step) {
        read_part(entry, first, to.narrow(0, first, std::min(step, to.numel() - first)));
      }
      return;
    }
    in_parts(entry, [&to](int64_t first, const at::Tensor& part) {
      to.narrow(0, first, part.numel()).copy_(part);
    });
  }

 private:
  static void read_part(const io::WeightFiles::Entry& entry, int64_t first, const at::Tensor& to) {
    entry.file->read(*entry.tensor, first * io::size_of(entry.tensor->dtype), bytes_of(to));
    refuse_non_finite(to, entry);
  }

  at::Device device_;
  at::Tensor buffer_;
};

}  // namespace

at::ScalarType scalar_type_of(io::Dtype dtype) {
  return std::find_if(kTypes.begin(), kTypes.end(),
                      [dtype](const auto& row) { return row.first == dtype; })
      ->second;
}

io::Dtype dtype_of(at::ScalarType type) {
  const auto* row = std::find_if(kTypes.begin(), kTypes.end(),
                                 [type](const auto& r) { return r.second == type; });
  invariant(row != kTypes.end(), "safetensors can hold this dtype");
  return row->first;
}

void check_weights(const std::vector<layout::TensorSpec>& wanted,
                   const io::WeightFiles& files,
                   const LoadOptions& options) {
  refuse_unless_complete(join(wanted, files, options), files);
}

void load_weights(torch::nn::Module& model,
                  const io::WeightFiles& files,
                  const LoadOptions& options) {
  const auto parameters = model.named_parameters();
  std::vector<layout::TensorSpec> wanted;
  for (const auto& parameter : parameters) {
    wanted.push_back({parameter.key(), parameter.value().sizes().vec()});
  }
  const Join joined = join(wanted, files, options);
  refuse_unless_complete(joined, files);
  std::vector<std::pair<at::Tensor, io::WeightFiles::Entry>> pairs;
  for (const auto& [name, entry] : joined.found) {
    pairs.emplace_back(parameters[name], entry);
  }
  // In file order: one sequential pass over each file.
  std::sort(pairs.begin(), pairs.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second.file, a.second.tensor->begin) <
           std::pair(b.second.file, b.second.tensor->begin);
  });
  std::optional<Reader> reader;
  for (const auto& [parameter, entry] : pairs) {
    if (!reader) {
      reader.emplace(parameter.device());
    }
    reader->fill(parameter, entry);
  }
  files.check_unchanged();
}

void read_in_parts(const io::WeightFiles::Entry& entry,
                   const std::function<void(int64_t first, const at::Tensor& part)>& take) {
  Reader(at::kCPU).in_parts(entry, take);
}

at::Tensor read_tensor(const io::SafetensorsFile& file, const io::TensorInfo& tensor) {
  at::Tensor out = at::empty(tensor.shape, scalar_type_of(tensor.dtype));
  file.read(tensor, bytes_of(out));
  return out;
}

void save_tensors(const Path& to,
                  const std::vector<NamedTensor>& tensors,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<io::TensorInfo> infos;
  std::map<std::string, at::Tensor> by_name;
  for (const NamedTensor& named : tensors) {
    infos.push_back({.name = named.name,
                     .dtype = dtype_of(named.tensor.scalar_type()),
                     .shape = named.tensor.sizes().vec()});
    by_name.emplace(named.name, named.tensor);
  }
  io::SafetensorsWriter::write(to, infos, metadata,
                               [&by_name](const io::TensorInfo& info, FileSink& sink) {
                                 const at::Tensor dense = by_name.at(info.name).cpu().contiguous();
                                 sink.write(bytes_of(dense));
                               });
}

}  // namespace fastwan::models
