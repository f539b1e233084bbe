// What a media file of ours says about its making: one JSON text inside the file.
//
//   mp4        `comment` and `description` tags (moov/udta/meta/ilst) and, since some services wipe
//              moov/udta, an XMP packet in a top-level uuid box
//   webm, mkv  COMMENT and DESCRIPTION tags
//   png        iTXt chunk "parameters"
//   gif        comment extension
//   webp       XMP chunk
//   jpg        COM segment
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/files.h"

namespace fastwan::io {

inline constexpr std::string_view kPngMetadataKeyword = "parameters";

// Our JSON back out of a file; the first bytes decide the format, not the name. Nothing when there
// is none, or what is there is no JSON object. IoError not_found, no_permission, read_failed;
// InvalidInput bad_value: not a regular file; bad_media: a damaged structure.
std::optional<std::string> read_media_metadata(const Path& file);

// InvalidInput not_utf8 or bad_value (NUL, more than 1 MiB) for text that the containers cannot
// hold.
void require_metadata_text(std::string_view text);

// "comment" and "description", as ffmpeg's ffmetadata demuxer reads them.
std::string ffmetadata_text(std::string_view metadata);

// Adds what ffmpeg's muxers leave out to a finished file: the uuid box of an mp4, the comment of a
// gif or jpg, the XMP chunk of a webp. The file is not synced.
void add_media_metadata(const Path& file, std::string_view metadata);

// An XMP packet whose description is the text, and the text of such a packet.
std::string xmp_packet(std::string_view text);
std::optional<std::string> text_of_xmp_packet(std::string_view packet);

}  // namespace fastwan::io
