// Prompt cleaning: the two ways the reference pipelines treat a prompt before its tokenizer.
#pragma once

#include <string>
#include <string_view>

namespace fastwan::text {

// diffusers and the original Wan code (--compat diffusers): ftfy.fix_text, html.unescape twice,
// runs of white space to one space, no white space at the ends. InvalidInput not_utf8.
std::string prompt_clean(std::string_view prompt);

// FastVideo (--compat fastvideo): only the white space at both ends goes. InvalidInput not_utf8.
std::string prompt_strip(std::string_view prompt);

}  // namespace fastwan::text
