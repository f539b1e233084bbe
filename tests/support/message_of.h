// The message of an error that a call must throw.
#pragma once

#include <functional>
#include <string>

#include <gtest/gtest.h>

#include "base/check.h"

namespace fastwan::testing {

// A failed check unless `act` throws an Error of this code; other exceptions pass through.
template <class Error = Failure>
std::string message_of(const std::function<void()>& act, Code code) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace fastwan::testing
