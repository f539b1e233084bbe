// HTML character references, as Python's html.unescape and ftfy decode them.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fastwan::text {

// html.unescape: numeric and named references by the rules of HTML 5, also without a semicolon
// ("&ampx" is "&x") and by the longest known name ("&notit;" is "¬it;").
std::u32string html_unescape(std::u32string_view text);

// ftfy's cautious form: only whole references that end in a semicolon; upper-case names of
// letters too ("P&EACUTE;REZ").
std::u32string unescape_whole_references(std::u32string_view text);

}  // namespace fastwan::text
