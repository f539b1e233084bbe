// The one form of error: `error[code]: message` on stderr, or JSON with --error-format json.
#pragma once

#include <exception>
#include <string>

namespace fastwan::cli {

enum class ErrorFormat { kText, kJson };

// Prints the exception and returns the exit status. Never lets a raw library text through but at
// log level debug.
int report(const std::exception& error, ErrorFormat format);

}  // namespace fastwan::cli
