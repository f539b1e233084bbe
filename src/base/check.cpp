#include "base/check.h"

#include <algorithm>
#include <array>

#include "base/text.h"

namespace fastwan {
namespace {

constexpr std::array kCodes = {
    CodeInfo{Code::kUsage, "usage", 2, 400},
    CodeInfo{Code::kUnknownOption, "unknown_option", 2, 400},
    CodeInfo{Code::kUnknownKey, "unknown_key", 2, 400},
    CodeInfo{Code::kBadValue, "bad_value", 2, 400},
    CodeInfo{Code::kConflict, "conflict", 2, 400},
    CodeInfo{Code::kBadConfig, "bad_config", 2, 400},
    CodeInfo{Code::kUnsupportedMethod, "unsupported_method", 2, 400},
    CodeInfo{Code::kUnsupportedModel, "unsupported_model", 3, 422},
    CodeInfo{Code::kBadJson, "bad_json", 3, 422},
    CodeInfo{Code::kBadHeader, "bad_header", 3, 422},
    CodeInfo{Code::kBadOffsets, "bad_offsets", 3, 422},
    CodeInfo{Code::kUnsupportedDtype, "unsupported_dtype", 3, 422},
    CodeInfo{Code::kNotUtf8, "not_utf8", 3, 422},
    CodeInfo{Code::kBadShape, "bad_shape", 3, 422},
    CodeInfo{Code::kSizeMismatch, "size_mismatch", 3, 422},
    CodeInfo{Code::kTooManyTensors, "too_many_tensors", 3, 422},
    CodeInfo{Code::kNameTooLong, "name_too_long", 3, 422},
    CodeInfo{Code::kFileChanged, "file_changed", 3, 422},
    CodeInfo{Code::kLfsPointer, "lfs_pointer", 3, 422},
    CodeInfo{Code::kLooksLikeHtml, "looks_like_html", 3, 422},
    CodeInfo{Code::kNonFiniteWeights, "non_finite_weights", 3, 422},
    CodeInfo{Code::kDuplicateKey, "duplicate_key", 3, 422},
    CodeInfo{Code::kBadTensor, "bad_tensor", 3, 422},
    CodeInfo{Code::kMissingWeights, "missing_weights", 3, 422},
    CodeInfo{Code::kBadModel, "bad_model", 3, 422},
    CodeInfo{Code::kBadTokenizer, "bad_tokenizer", 3, 422},
    CodeInfo{Code::kBadMedia, "bad_media", 3, 422},
    CodeInfo{Code::kBadImage, "bad_image", 3, 422},
    CodeInfo{Code::kUnsafeFormat, "unsafe_format", 3, 422},
    CodeInfo{Code::kLoraMismatch, "lora_mismatch", 3, 422},
    CodeInfo{Code::kBadDataset, "bad_dataset", 3, 422},
    CodeInfo{Code::kBadCheckpoint, "bad_checkpoint", 3, 422},
    CodeInfo{Code::kNotFound, "not_found", 4, 404},
    CodeInfo{Code::kNoPermission, "no_permission", 4, 403},
    CodeInfo{Code::kDiskFull, "disk_full", 5, 507},
    CodeInfo{Code::kReadFailed, "read_failed", 5, 500},
    CodeInfo{Code::kWriteFailed, "write_failed", 5, 500},
    CodeInfo{Code::kOutOfMemory, "out_of_memory", 5, 422},
    CodeInfo{Code::kNoGpu, "no_gpu", 5, 422},
    CodeInfo{Code::kDoesNotFit, "does_not_fit", 5, 422},
    CodeInfo{Code::kEncoderFailed, "encoder_failed", 5, 500},
    CodeInfo{Code::kDecoderFailed, "decoder_failed", 5, 500},
    CodeInfo{Code::kMissingProgram, "missing_program", 5, 500},
    CodeInfo{Code::kMissingLibrary, "missing_library", 5, 500},
    CodeInfo{Code::kNonFinite, "non_finite", 6, 500},
    CodeInfo{Code::kExists, "exists", 8, 409},
    CodeInfo{Code::kLocked, "locked", 8, 409},
    CodeInfo{Code::kNewerFormat, "newer_format", 8, 409},
    CodeInfo{Code::kChangedRun, "changed_run", 8, 409},
    CodeInfo{Code::kDeviceFault, "device_fault", 10, 500},
    CodeInfo{Code::kStopped, "stopped", 130, 409},
    CodeInfo{Code::kInternal, "internal", 1, 500},
};

}  // namespace

const CodeInfo& info(Code code) {
  const auto* found = std::find_if(kCodes.begin(), kCodes.end(),
                                   [code](const CodeInfo& entry) { return entry.code == code; });
  invariant(found != kCodes.end(), "every code has a row in kCodes");
  return *found;
}

void invariant(bool holds, const char* claim, const char* file, int line) {
  if (!holds) {
    throw std::logic_error(str("invariant broken at ", file, ":", line, ": ", claim));
  }
}

}  // namespace fastwan
