#include "cli/errors.h"

#include <algorithm>
#include <cstdio>
#include <new>
#include <string_view>

#include "base/check.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"

namespace fastwan::cli {
namespace {

struct Shown {
  Code code;
  std::string message;
};

// Texts of torch that mean a known thing; the full text goes to the log.
Shown from_foreign(std::string_view what) {
  const auto has = [what](std::string_view part) {
    return what.find(part) != std::string_view::npos;
  };
  if (has("out of memory") || has("can't allocate memory") || has("DefaultCPUAllocator")) {
    return {Code::kOutOfMemory,
            "not enough memory for this size. Try fewer frames, a smaller size or batch, --offload "
            "layer or "
            "--vae-tiling; "
            "`fastwan plan` shows what each stage needs"};
  }
  if (has("CUDA error") || has("CUDA driver")) {
    return {Code::kDeviceFault,
            "the GPU reported a fault. Run again; if it persists see `fastwan doctor`"};
  }
  return {Code::kInternal, str("internal fault, please report it: ",
                               escape_control(what.substr(0, what.find('\n'))))};
}

Shown shown(const std::exception& error) {
  if (const auto* failure = dynamic_cast<const Failure*>(&error)) {
    return {failure->code(), failure->what()};
  }
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) {
    return from_foreign("out of memory");
  }
  log::debug(error.what());
  return from_foreign(error.what());
}

}  // namespace

int report(const std::exception& error, ErrorFormat format) {
  const Shown it = shown(error);
  const CodeInfo& code = info(it.code);
  if (format == ErrorFormat::kJson) {
    const Json document = {
        {"error", {{"code", code.name}, {"message", it.message}, {"exit", code.exit_status}}}};
    std::fputs((document.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n").c_str(),
               stderr);
  } else if (it.code != Code::kStopped) {
    std::fputs(str("error[", code.name, "]: ", it.message, "\n").c_str(), stderr);
  } else {
    std::fputs("stopped\n", stderr);
  }
  return code.exit_status;
}

}  // namespace fastwan::cli
