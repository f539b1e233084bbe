#include "text/normalizers.h"

#include <memory>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "text/charsmap.h"
#include "text/unicode.h"

namespace fastwan::text {
namespace {

std::string type_of(const Json& component, const std::string& origin) {
  return json_get<std::string>(component, "type", origin);
}

Json parts_of(const Json& sequence, const char* key, const std::string& origin) {
  Json parts = json_get<Json>(sequence, key, origin);
  if (!parts.is_array()) {
    throw_json_type(origin, key, parts);
  }
  return parts;
}

// --- normalizers ---------------------------------------------------------------------------------

void strip_left(Segment& segment) {
  std::u32string text = to_utf32(segment.text);
  std::size_t begin = 0;
  while (begin < text.size() && is_white_space(text[begin])) {
    ++begin;
  }
  segment.is_at_start = segment.is_at_start && begin == 0;
  segment.text = to_utf8(std::u32string_view(text).substr(begin));
}

void strip_right(Segment& segment) {
  std::u32string text = to_utf32(segment.text);
  while (!text.empty() && is_white_space(text.back())) {
    text.pop_back();
  }
  segment.text = to_utf8(text);
}

bool nmt_removes(char32_t c) {
  return (c >= 0x01 && c <= 0x08) || c == 0x0B || (c >= 0x0E && c <= 0x1F) || c == 0x7F ||
         c == 0x8F || c == 0x9F;
}

bool nmt_takes_for_space(char32_t c) {
  return c == 0x09 || c == 0x0A || c == 0x0C || c == 0x0D || c == 0x1680 ||
         (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 || c == 0xFEFF ||
         c == 0xFFFD;
}

void apply_nmt(Segment& segment) {
  const std::u32string text = to_utf32(segment.text);
  if (!text.empty() && nmt_removes(text.front())) {
    segment.is_at_start = false;
  }
  std::u32string out;
  for (const char32_t c : text) {
    if (!nmt_removes(c)) {
      out.push_back(nmt_takes_for_space(c) ? U' ' : c);
    }
  }
  segment.text = to_utf8(out);
}

// What Replace looks for: a run of at least `at_least` copies of `unit`.
struct Run {
  std::string unit;
  std::size_t at_least = 1;
  bool takes_all = false;  // the whole run, not one copy
  bool is_any_space = false;
};

// The expressions that T5-like files hold; a general engine would be a library of its own.
std::optional<Run> parse_regex(const std::string& regex) {
  if (regex == R"(\s+)") {
    return Run{.takes_all = true, .is_any_space = true};
  }
  const std::size_t length = regex.empty() ? 0 : utf8_length(regex[0]);
  if (length == 0 || length > regex.size() ||
      std::string_view(R"(\^$.|?*+()[]{})").find(regex[0]) != std::string_view::npos) {
    return std::nullopt;
  }
  const std::string unit = regex.substr(0, length);
  const std::string_view quantifier = std::string_view(regex).substr(length);
  if (quantifier.empty() || quantifier == "+") {
    return Run{.unit = unit, .takes_all = !quantifier.empty()};
  }
  if (quantifier.starts_with("{") && quantifier.ends_with(",}") && quantifier.size() > 3) {
    const auto at_least = parse_int(quantifier.substr(1, quantifier.size() - 3));
    if (at_least.has_value() && *at_least >= 1) {
      return Run{.unit = unit, .at_least = static_cast<std::size_t>(*at_least), .takes_all = true};
    }
  }
  return std::nullopt;
}

// Bytes of one copy at the start of `text`; 0 if none.
std::size_t copy_length(const Run& run, std::string_view text) {
  if (text.empty()) {
    return 0;
  }
  if (!run.is_any_space) {
    return text.starts_with(run.unit) ? run.unit.size() : 0;
  }
  const std::size_t length = utf8_length(text[0]);
  return is_white_space(to_utf32(text.substr(0, length)).front()) ? length : 0;
}

std::size_t run_length(const Run& run, std::string_view text) {
  std::size_t length = 0;
  for (std::size_t copies = 0;; ++copies) {
    const std::size_t copy = copy_length(run, text.substr(length));
    if (copy == 0 || (!run.takes_all && copies == 1)) {
      return copies >= run.at_least ? length : 0;
    }
    length += copy;
  }
}

void replace_runs(const Run& run, const std::string& content, Segment& segment) {
  std::string out;
  const std::string_view text = segment.text;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = run_length(run, text.substr(at));
    if (length == 0) {
      const std::size_t character = utf8_length(text[at]);
      out += text.substr(at, character);
      at += character;
      continue;
    }
    segment.is_at_start = segment.is_at_start && (at > 0 || !content.empty());
    out += content;
    at += length;
  }
  segment.text = std::move(out);
}

Normalize parse_replace(const Json& replace, const std::string& origin) {
  const Json pattern = json_get<Json>(replace, "pattern", origin);
  const std::string content = json_get<std::string>(replace, "content", origin);
  std::optional<Run> run;
  std::string shown;
  if (pattern.contains("String")) {
    shown = json_get<std::string>(pattern, "String", origin);
    run = shown.empty() ? std::nullopt : std::optional(Run{.unit = shown});
  } else {
    shown = json_get<std::string>(pattern, "Regex", origin);
    run = parse_regex(shown);
  }
  if (!run.has_value()) {
    throw_unsupported(origin, "the pattern of a Replace normalizer", shown,
                      R"(a string, " {2,}", "x+" or "\s+")");
  }
  return [run = *run, content](Segment& segment) { replace_runs(run, content, segment); };
}

Normalize parse_precompiled(const Json& precompiled, const std::string& origin) {
  const auto map = std::make_shared<const Charsmap>(
      json_get<std::string>(precompiled, "precompiled_charsmap", origin), origin);
  return [map](Segment& segment) { segment.text = map->apply(segment.text); };
}

Normalize parse_prepend(const Json& prepend, const std::string& origin) {
  const std::string prefix = json_get<std::string>(prepend, "prepend", origin);
  return [prefix](Segment& segment) {
    if (!segment.text.empty()) {
      segment.text.insert(0, prefix);
    }
  };
}

void append_normalizer(const Json& normalizer,
                       const std::string& origin,
                       std::vector<Normalize>& to) {
  const std::string type = type_of(normalizer, origin);
  const auto add_form = [&](NormalForm form) {
    to.push_back([form](Segment& segment) { segment.text = normalize(segment.text, form); });
  };
  if (type == "Sequence") {
    for (const Json& part : parts_of(normalizer, "normalizers", origin)) {
      append_normalizer(part, origin, to);
    }
  } else if (type == "Precompiled") {
    to.push_back(parse_precompiled(normalizer, origin));
  } else if (type == "Replace") {
    to.push_back(parse_replace(normalizer, origin));
  } else if (type == "Prepend") {
    to.push_back(parse_prepend(normalizer, origin));
  } else if (type == "Strip") {
    if (json_get<bool>(normalizer, "strip_left", origin)) {
      to.emplace_back(strip_left);
    }
    if (json_get<bool>(normalizer, "strip_right", origin)) {
      to.emplace_back(strip_right);
    }
  } else if (type == "Nmt") {
    to.emplace_back(apply_nmt);
  } else if (type == "Lowercase") {
    to.push_back([](Segment& segment) { segment.text = to_lowercase(segment.text); });
  } else if (type == "NFC") {
    add_form(NormalForm::kNfc);
  } else if (type == "NFD") {
    add_form(NormalForm::kNfd);
  } else if (type == "NFKC") {
    add_form(NormalForm::kNfkc);
  } else if (type == "NFKD") {
    add_form(NormalForm::kNfkd);
  } else {
    throw_unsupported(origin, "the normalizer", type,
                      "Sequence, Precompiled, Replace, Prepend, Strip, Nmt, Lowercase, NFC, NFD, "
                      "NFKC and NFKD");
  }
}

// --- pre-tokenizers ------------------------------------------------------------------------------

std::vector<Segment> split_white_space(const Segment& segment) {
  std::vector<Segment> out;
  std::size_t begin = 0;
  const std::string_view text = segment.text;
  const auto add = [&](std::size_t end) {
    if (end > begin) {
      out.push_back({.text = std::string(text.substr(begin, end - begin)),
                     .is_at_start = segment.is_at_start && begin == 0});
    }
  };
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = utf8_length(text[at]);
    if (is_white_space(to_utf32(text.substr(at, length)).front())) {
      add(at);
      begin = at + length;
    }
    at += length;
  }
  add(text.size());
  return out;
}

enum class Prefix { kAlways, kFirst, kNever };

struct Metaspace {
  std::string mark;  // stands for a space
  Prefix prefix = Prefix::kAlways;
  bool splits = true;  // each mark begins a new word
};

std::vector<Segment> split_metaspace(const Metaspace& rule, const Segment& segment) {
  std::string text = replace_all(segment.text, " ", rule.mark);
  const bool wants_prefix =
      rule.prefix == Prefix::kAlways || (rule.prefix == Prefix::kFirst && segment.is_at_start);
  if (wants_prefix && !text.empty() && !text.starts_with(rule.mark)) {
    text.insert(0, rule.mark);
  }
  std::vector<Segment> out;
  std::size_t begin = 0;
  while (begin < text.size()) {
    const std::size_t next = rule.splits ? text.find(rule.mark, begin + 1) : std::string::npos;
    const std::size_t end = std::min(next, text.size());
    out.push_back({.text = text.substr(begin, end - begin),
                   .is_at_start = segment.is_at_start && begin == 0});
    begin = end;
  }
  return out;
}

Prefix parse_prefix(const Json& metaspace, const std::string& origin) {
  const std::string scheme =
      json_get_or<std::string>(metaspace, "prepend_scheme", "always", origin);
  Prefix prefix = Prefix::kAlways;
  if (scheme == "first") {
    prefix = Prefix::kFirst;
  } else if (scheme == "never") {
    prefix = Prefix::kNever;
  } else if (scheme != "always") {
    throw_unsupported(origin, "Metaspace's prepend_scheme", scheme, "always, first and never");
  }
  // Files from before prepend_scheme say it with add_prefix_space alone.
  if (!json_get_or(metaspace, "add_prefix_space", true, origin)) {
    if (metaspace.contains("prepend_scheme") && prefix != Prefix::kNever) {
      throw_unsupported(origin, "Metaspace's add_prefix_space",
                        "false beside prepend_scheme " + scheme,
                        "no contradiction between the two");
    }
    return Prefix::kNever;
  }
  return prefix;
}

Split parse_metaspace(const Json& metaspace, const std::string& origin) {
  Metaspace rule;
  rule.mark = json_get<std::string>(metaspace, "replacement", origin);
  if (rule.mark.empty() || utf8_length(rule.mark[0]) != rule.mark.size()) {
    throw_unsupported(origin, "Metaspace's replacement", rule.mark, "one character");
  }
  rule.prefix = parse_prefix(metaspace, origin);
  rule.splits = json_get_or(metaspace, "split", true, origin);
  return [rule](const Segment& segment) { return split_metaspace(rule, segment); };
}

void append_pre_tokenizer(const Json& pre_tokenizer,
                          const std::string& origin,
                          std::vector<Split>& to) {
  const std::string type = type_of(pre_tokenizer, origin);
  if (type == "Sequence") {
    for (const Json& part : parts_of(pre_tokenizer, "pretokenizers", origin)) {
      append_pre_tokenizer(part, origin, to);
    }
  } else if (type == "WhitespaceSplit") {
    to.emplace_back(split_white_space);
  } else if (type == "Metaspace") {
    to.push_back(parse_metaspace(pre_tokenizer, origin));
  } else {
    throw_unsupported(origin, "the pre_tokenizer", type, "Sequence, WhitespaceSplit and Metaspace");
  }
}

}  // namespace

void throw_unsupported(const std::string& origin,
                       const std::string& what,
                       const std::string& got,
                       const std::string& supported) {
  throw InvalidInput(Code::kBadTokenizer, str(origin, ": ", what, " is not supported: \"",
                                              escape_control(got), "\". Supported: ", supported));
}

std::vector<Normalize> parse_normalizer(const Json& normalizer, const std::string& origin) {
  std::vector<Normalize> out;
  if (!normalizer.is_null()) {
    append_normalizer(normalizer, origin, out);
  }
  return out;
}

std::vector<Split> parse_pre_tokenizer(const Json& pre_tokenizer, const std::string& origin) {
  std::vector<Split> out;
  if (!pre_tokenizer.is_null()) {
    append_pre_tokenizer(pre_tokenizer, origin, out);
  }
  return out;
}

}  // namespace fastwan::text
