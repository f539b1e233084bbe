// Functions of libfastwan.so beyond those that TensorLibrary wraps.
#pragma once

#include <dlfcn.h>

#include "base/check.h"
#include "base/text.h"
#include "cli/tensor_library.h"

namespace fastwan::cli {

// The exported function `name` of the library, which lies open for all (RTLD_GLOBAL) as long as the
// process lives. IoError missing_library.
template <class Function>
Function library_function(const TensorLibrary& /*opened*/, const char* name) {
  void* found = ::dlsym(RTLD_DEFAULT, name);
  if (found == nullptr) {
    throw IoError(Code::kMissingLibrary,
                  str("libfastwan.so has no ", name,
                      "; it is of another version than this program. Build again"));
  }
  return reinterpret_cast<Function>(found);
}

}  // namespace fastwan::cli
