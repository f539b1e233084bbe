// A bounded walker of mp4 boxes (ISO/IEC 14496-12): the texts of a file, nothing else.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "io/media_bytes.h"

namespace fastwan::io {

struct Mp4Texts {
  std::optional<std::string> comment;      // moov/udta/meta/ilst/(c)cmt/data
  std::optional<std::string> description;  // .../desc/data
  std::optional<std::string> xmp;          // top-level uuid box
};

bool is_mp4(const MediaBytes& bytes);  // ftyp comes first

// InvalidInput bad_media: a box that is smaller than its header or larger than its parent, more
// than 10,000 boxes beside each other, a text above 1 MiB.
Mp4Texts read_mp4_texts(const MediaBytes& bytes);

// A top-level box that holds the XMP packet (XMP specification part 3, section 1.3.9).
std::string xmp_uuid_box(std::string_view packet);

}  // namespace fastwan::io
