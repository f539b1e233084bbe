#include <string_view>

#include "base/json.h"
#include "input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  return fastwan::testing::accept_or_refuse(
      [&] { (void)fastwan::dump_json(fastwan::parse_json(text, "fuzz.json")); });
}
