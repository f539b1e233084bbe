// Repair of damaged text: what ftfy.fix_text does with its default settings.
//
// ftfy 6.3.1 by Robyn Speer (Apache-2.0) is the model; its tables are generated from it
// (tools/make_text_tables.py), its rules are followed step by step, so that a prompt cleaned here
// is the prompt that diffusers cleans.
//
// Line by line, until nothing changes: HTML references, wrong encodings (mojibake.h), C1 controls,
// Latin ligatures, full-width and half-width forms, curly quotes, line breaks, terminal escapes,
// control characters, NFC.
#pragma once

#include <string>
#include <string_view>

namespace fastwan::text {

std::u32string fix_text(std::u32string_view text);

}  // namespace fastwan::text
