// Operators of libfastwan_ops_cuda.so, for functions that use them where that library is opened.
#pragma once

#include <optional>

#include <ATen/core/dispatch/Dispatcher.h>

namespace fastwan::ops {

// Nothing where no opened library defines it.
template <class Signature>
std::optional<c10::TypedOperatorHandle<Signature>> gpu_operator(const char* name) {
  const auto found = c10::Dispatcher::singleton().findSchema({name, ""});
  return found ? std::optional(found->typed<Signature>()) : std::nullopt;
}

}  // namespace fastwan::ops
