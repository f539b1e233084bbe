// Errors: one list of codes, four kinds of exception.
//
// Each message says what, where, wanted, got and what to do; the command line prints it as
// `error[code]: message` and exits with the code's status, the server answers with the code's HTTP
// status.
#pragma once

#include <stdexcept>
#include <string>

namespace fastwan {

enum class Code {
  // usage, limits, settings: exit 2
  kUsage,
  kUnknownOption,
  kUnknownKey,
  kBadValue,
  kConflict,
  kBadConfig,
  kUnsupportedMethod,
  kUnsupportedModel,
  // input data: exit 3
  kBadJson,
  kBadHeader,
  kBadOffsets,
  kUnsupportedDtype,
  kNotUtf8,
  kBadShape,
  kSizeMismatch,
  kTooManyTensors,
  kNameTooLong,
  kFileChanged,
  kLfsPointer,
  kLooksLikeHtml,
  kNonFiniteWeights,
  kDuplicateKey,
  kBadTensor,
  kMissingWeights,
  kBadModel,
  kBadTokenizer,
  kBadMedia,
  kBadImage,
  kUnsafeFormat,
  kLoraMismatch,
  kBadDataset,
  kBadCheckpoint,
  // not found, no permission: exit 4
  kNotFound,
  kNoPermission,
  // resources: exit 5
  kDiskFull,
  kReadFailed,
  kWriteFailed,
  kOutOfMemory,
  kNoGpu,
  kDoesNotFit,
  kEncoderFailed,
  kDecoderFailed,
  kMissingProgram,
  kMissingLibrary,
  // numeric: exit 6
  kNonFinite,
  // state conflict: exit 8
  kExists,
  kLocked,
  kNewerFormat,
  kChangedRun,
  // device fault: exit 10
  kDeviceFault,
  // stopped by the user: exit 130
  kStopped,
  // our own bug: exit 1
  kInternal,
};

struct CodeInfo {
  Code code;
  const char* name;  // as printed in error[name]
  int exit_status;
  int http_status;
};

const CodeInfo& info(Code code);

// Base of all errors that the program explains to its user.
class Failure : public std::runtime_error {
 public:
  Failure(Code code, const std::string& message) : std::runtime_error(message), code_(code) {}
  Code code() const { return code_; }

 private:
  Code code_;
};

struct InvalidInput : Failure {  // the user can fix it: usage, limits, config, bad data
  using Failure::Failure;
};
struct IoError : Failure {  // path, offset, reason; disk full; not found
  using Failure::Failure;
};
struct DeviceError : Failure {  // the GPU or a rank failed
  using Failure::Failure;
};
struct Stopped : Failure {  // the user asked to stop
  Stopped() : Failure(Code::kStopped, "stopped on request") {}
};

// Our own bug if it does not hold; throws std::logic_error naming file and line (exit 1, HTTP 500).
void invariant(bool holds,
               const char* claim,
               const char* file = __builtin_FILE(),
               int line = __builtin_LINE());

}  // namespace fastwan
