// The bytes as tokenizer.json and as spiece.model; a model that is accepted
// must also encode.
#include "input.h"
#include "text/tokenizer_json.h"
#include "text/tokenizer_spiece.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fastwan::testing::MemoryFile file(data, size);
  const auto try_out = [](const std::unique_ptr<fastwan::text::Tokenizer>& tokenizer) {
    (void)tokenizer->encode("A red circle \u00e9\u4e2d moves <extra_id_0>.");
  };
  fastwan::testing::accept_or_refuse(
      [&] { try_out(fastwan::text::open_tokenizer_json(file.path())); });
  return fastwan::testing::accept_or_refuse(
      [&] { try_out(fastwan::text::open_tokenizer_spiece(file.path())); });
}
