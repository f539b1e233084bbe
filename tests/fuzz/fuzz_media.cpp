// The first bytes decide which reader runs: mp4 boxes, EBML, PNG, GIF, JPEG, WebP.
#include "input.h"
#include "io/image_header.h"
#include "io/media_metadata.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const fastwan::testing::MemoryFile file(data, size);
  fastwan::testing::accept_or_refuse([&] { (void)fastwan::io::read_media_metadata(file.path()); });
  return fastwan::testing::accept_or_refuse(
      [&] { (void)fastwan::io::read_header(fastwan::io::MediaBytes(file.path())); });
}
