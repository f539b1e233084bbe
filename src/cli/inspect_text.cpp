// The documents of `fastwan inspect` as text. Foreign names are escaped where they are printed.
#include <array>

#include "base/shape.h"
#include "base/text.h"
#include "cli/inspect.h"
#include "cli/table.h"

namespace fastwan::cli {
namespace {

constexpr std::size_t kTensorsShown = 20;

std::string plain(const Json& value) {
  return escape_control(value.is_string() ? value.get<std::string>() : value.dump());
}

std::string bytes_text(const Json& value) {
  return format_bytes(value.get<double>());
}

std::string dtypes_text(const Json& dtypes) {
  std::string out;
  for (const auto& [dtype, count] : dtypes.items()) {
    out += (out.empty() ? "" : ", ") + dtype;
  }
  return out;
}

std::string joined(const Json& list) {
  std::string out;
  for (const Json& item : list) {
    out += (out.empty() ? "" : ", ") + plain(item);
  }
  return out;
}

std::string complaint_lines(const Json& component) {
  std::string out;
  for (const char* kind : {"missing", "unexpected", "misshapen"}) {
    const Json& list = component.at(kind);
    if (list.at("count") == 0) {
      continue;
    }
    out += str(plain(component.at("name")), ": ", list.at("count").get<int64_t>(), " ", kind,
               " tensors:\n");
    for (const Json& name : list.at("first")) {
      out += "  " + plain(name) + "\n";
    }
  }
  return out;
}

std::string component_table(const Json& components) {
  Table table;
  table.add({"component", "class", "parameters", "stored", "size", "files"});
  std::string complaints;
  for (const Json& component : components) {
    table.add({plain(component.at("name")), plain(component.at("class")),
               format_count(component.at("parameters").get<double>()),
               dtypes_text(component.at("dtypes")), bytes_text(component.at("bytes")),
               plain(component.at("files"))});
    complaints += complaint_lines(component);
  }
  return table.text() + complaints;
}

std::string geometry_text(const Json& geometry) {
  std::string out =
      str(plain(geometry.at("layers")), " layers, width ", plain(geometry.at("width")));
  if (geometry.contains("heads")) {
    out +=
        str(" (", plain(geometry.at("heads")), " heads of ", plain(geometry.at("head_dim")), ")");
  }
  out +=
      str(", feed-forward ", plain(geometry.at("ffn_dim")), ", ", plain(geometry.at("in_channels")),
          " channels, ", geometry.at("is_gated") == true ? "gated" : "no gates");
  return out;
}

std::string model_text(const Json& document) {
  Table head;
  const Json& latents = document.at("latents");
  head.add({"model", plain(document.at("path"))});
  head.add({"class", plain(document.at("class"))});
  head.add({"preset", document.at("preset").is_null() ? "none" : plain(document.at("preset"))});
  head.add({"attention", document.at("is_gated") == true ? "sparse: the weights have gates"
                                                         : "full: the weights have no gates"});
  head.add(
      {"input", document.at("takes_image") == true ? "text, or text and a first frame" : "text"});
  if (document.contains("boundary_ratio")) {
    head.add({"boundary", plain(document.at("boundary_ratio"))});
  }
  head.add({"transformer", geometry_text(document.at("components")[0].at("geometry"))});
  head.add({"latents",
            str(plain(latents.at("channels")), " channels, 1 for ",
                plain(latents.at("pixels_per_latent")), "x", plain(latents.at("pixels_per_latent")),
                " pixels and ", plain(latents.at("frames_per_latent")), " frames")});
  head.add({"sizes", str("multiples of ", plain(latents.at("size_multiple")), ", ",
                         plain(latents.at("frames_per_latent")), "k+1 frames")});
  head.add({"digest", plain(document.at("digest"))});
  return head.text() + "\n" + component_table(document.at("components"));
}

std::string tensor_table(const Json& list) {
  Table table;
  for (std::size_t i = 0; i < std::min(list.size(), kTensorsShown); ++i) {
    table.add({plain(list[i].at("name")), plain(list[i].at("dtype")),
               format_shape(list[i].at("shape").get<std::vector<int64_t>>())});
  }
  const std::string rest =
      list.size() > kTensorsShown ? str("... ", list.size(), " in all; --json lists them\n") : "";
  return table.text() + rest;
}

std::string weights_text(const Json& document) {
  Table head;
  const bool is_lora = document.at("kind") == "lora";
  head.add({is_lora ? "LoRA" : "weights", plain(document.at("path"))});
  head.add(
      {"holds", str(plain(document.at("tensors")), " tensors, ",
                    format_count(document.at("parameters").get<double>()), " values, ",
                    dtypes_text(document.at("dtypes")), ", ", bytes_text(document.at("bytes")))});
  if (is_lora) {
    head.add({"keys", joined(document.at("styles"))});
    head.add({"rank", joined(document.at("ranks"))});
    head.add({"modules", plain(document.at("modules"))});
    if (document.at("differences") != 0) {
      head.add(
          {"differences", plain(document.at("differences")) + " weights or biases as a whole"});
    }
    if (document.at("gates") != 0) {
      head.add({"gates", plain(document.at("gates")) + " weights and biases as a whole"});
    }
    const Json& unknown = document.at("unknown_keys");
    if (unknown.at("count") != 0) {
      head.add({"unknown keys",
                str(plain(unknown.at("count")), ", first: ", joined(unknown.at("first")))});
    }
    return head.text();
  }
  if (document.contains("geometry")) {
    head.add({"model", plain(document.at("class")) + ", " +
                           plain(document.at("geometry").at("names")) + " names"});
    head.add({"geometry", geometry_text(document.at("geometry"))});
  }
  for (const auto& [key, value] : document.at("metadata").items()) {
    head.add({escape_control(key), plain(value)});
  }
  return head.text() + "\n" + tensor_table(document.at("tensor_list"));
}

std::string media_text(const Json& document) {
  Table head;
  head.add({"media", plain(document.at("path"))});
  const Json& metadata = document.at("metadata");
  if (metadata.is_null()) {
    return head.text() + "It does not say how it was made.\n";
  }
  for (const auto& [key, value] : metadata.items()) {
    if (key != "settings") {
      head.add({escape_control(key), plain(value)});
    }
  }
  if (metadata.contains("settings") && metadata.at("settings").is_object()) {
    for (const auto& [key, value] : metadata.at("settings").items()) {
      head.add({escape_control(key), plain(value)});
    }
  }
  return head.text() + "\nThe same again:\n" + plain(document.at("command")) + "\n";
}

}  // namespace

std::string text_of(const Json& document) {
  const auto kind = document.at("kind").get<std::string>();
  std::string out;
  if (kind == "model") {
    out = model_text(document);
  } else if (kind == "component") {
    out = component_table(document.at("components"));
  } else if (kind == "media") {
    out = media_text(document);
  } else {
    out = weights_text(document);
  }
  if (document.contains("sha256")) {
    Table digests;
    for (const auto& [file, digest] : document.at("sha256").items()) {
      digests.add({plain(digest), escape_control(file)});
    }
    out += "\n" + digests.text();
  }
  return out;
}

}  // namespace fastwan::cli
