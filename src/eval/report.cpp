#include "eval/report.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

#include "base/text.h"

namespace fastwan::eval {
namespace {

constexpr const char* kStyle =
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border-bottom:1px solid "
    "#ccc;padding:.2em .8em;text-align:left}td+td,th+th{text-align:right}"
    "figure{margin:1em 0}figcaption{color:#555}img{max-width:100%;image-rendering:pixelated}"
    "svg{max-width:100%;height:auto}svg text{font:12px sans-serif;fill:#222}";

// Colours that colour-blind readers tell apart (Okabe and Ito).
constexpr std::array<const char*, 6> kColours = {"#0072b2", "#d55e00", "#009e73",
                                                 "#cc79a7", "#e69f00", "#56b4e9"};

constexpr double kWidth = 720, kLabelWidth = 200, kValueWidth = 150, kBarHeight = 24;
constexpr double kLineHeight = 300, kLeft = 70, kBottom = 40, kTop = 12, kRight = 12;

std::string number(double value) {  // of a coordinate
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

std::string svg_text(double x, double y, const std::string& anchor, const std::string& text) {
  return str("<text x=\"", number(x), "\" y=\"", number(y), "\" text-anchor=\"", anchor, "\">",
             escape_html(text), "</text>");
}

std::string line(double x1, double y1, double x2, double y2, const std::string& colour) {
  return str("<line x1=\"", number(x1), "\" y1=\"", number(y1), "\" x2=\"", number(x2), "\" y2=\"",
             number(y2), "\" stroke=\"", colour, "\"/>");
}

std::string svg(double height, const std::string& title, const std::string& content) {
  return str("<figure><figcaption>", escape_html(title), "</figcaption><svg width=\"", kWidth,
             "\" height=\"", height, "\" viewBox=\"0 0 ", kWidth, " ", height, "\" role=\"img\">",
             content, "</svg></figure>\n");
}

struct Span {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void hold(double value) {
    if (std::isfinite(value)) {
      low = std::min(low, value);
      high = std::max(high, value);
    }
  }
  // Something to divide by, whatever was held.
  Span opened() const {
    if (low > high) {
      return {0, 1};
    }
    return low == high ? Span{low - 0.5, high + 0.5} : *this;
  }
  double share(double value) const { return (value - low) / (high - low); }
};

std::string polyline(const std::string& points, const std::string& colour) {
  return str("<polyline fill=\"none\" stroke=\"", colour, "\" stroke-width=\"1.5\" points=\"",
             points, "\"/>");
}

}  // namespace

std::string format_metric(double value) {
  if (std::isnan(value)) {
    return "not a number";
  }
  if (std::isinf(value)) {
    return "infinite";
  }
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

std::string escape_html(const std::string& text) {
  std::string out = escape_control(text);
  out = replace_all(out, "&", "&amp;");
  out = replace_all(out, "<", "&lt;");
  out = replace_all(out, ">", "&gt;");
  return replace_all(out, "\"", "&quot;");
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    const std::size_t count = std::min<std::size_t>(3, bytes.size() - i);
    for (std::size_t j = 0; j < 3; ++j) {
      group = group << 8 | (j < count ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    }
    for (std::size_t j = 0; j < 4; ++j) {
      out += j <= count ? kAlphabet[group >> (18 - 6 * j) & 63] : '=';
    }
  }
  return out;
}

void Report::heading(const std::string& text) {
  body_ += str("<h2>", escape_html(text), "</h2>\n");
}

void Report::paragraph(const std::string& text) {
  body_ += str("<p>", escape_html(text), "</p>\n");
}

void Report::table(const std::vector<std::string>& header,
                   const std::vector<std::vector<std::string>>& rows) {
  const auto row = [this](const std::vector<std::string>& cells, const char* tag) {
    body_ += "<tr>";
    for (const std::string& cell : cells) {
      body_ += str("<", tag, ">", escape_html(cell), "</", tag, ">");
    }
    body_ += "</tr>\n";
  };
  body_ += "<table>\n";
  row(header, "th");
  for (const std::vector<std::string>& cells : rows) {
    row(cells, "td");
  }
  body_ += "</table>\n";
}

void Report::bars(const std::string& title, const std::vector<Bar>& bars, double limit) {
  double high = limit;
  for (const Bar& bar : bars) {
    high = limit > 0 ? limit : std::max(high, bar.value.high);
  }
  const double unit = (kWidth - kLabelWidth - kValueWidth) / (high > 0 ? high : 1);
  const auto place = [&](double value) {
    return kLabelWidth + unit * std::clamp(value, 0.0, std::max(high, 0.0));
  };
  std::string content;
  double top = 0;
  for (const Bar& bar : bars) {
    const double middle = top + kBarHeight / 2;
    content += svg_text(kLabelWidth - 8, middle + 4, "end", bar.label);
    content += str("<rect x=\"", number(kLabelWidth), "\" y=\"", number(top + 4), "\" width=\"",
                   number(place(bar.value.value) - kLabelWidth), "\" height=\"",
                   number(kBarHeight - 8), "\" fill=\"", kColours[0], "\"/>");
    content += line(place(bar.value.low), middle, place(bar.value.high), middle, "#000");
    content += svg_text(kWidth, middle + 4, "end",
                        str(format_metric(bar.value.value), " [", format_metric(bar.value.low),
                            ", ", format_metric(bar.value.high), "]"));
    top += kBarHeight;
  }
  body_ += svg(top, title, content);
}

void Report::lines(const std::string& title,
                   const Axes& axes,
                   const std::vector<Series>& all_series) {
  Span x_held, y_held;
  for (const Series& series : all_series) {
    for (const auto& [x, y] : series.points) {
      x_held.hold(x);
      y_held.hold(y);
    }
  }
  const Span x_span = x_held.opened(), y_span = y_held.opened();
  const double bottom = kLineHeight - kBottom;
  std::string content = line(kLeft, bottom, kWidth - kRight, bottom, "#888") +
                        line(kLeft, kTop, kLeft, bottom, "#888") +
                        svg_text(kLeft, bottom + 16, "start", format_metric(x_span.low)) +
                        svg_text(kWidth - kRight, bottom + 16, "end", format_metric(x_span.high)) +
                        svg_text((kLeft + kWidth) / 2, bottom + 32, "middle", axes.x) +
                        svg_text(kLeft - 4, bottom, "end", format_metric(y_span.low)) +
                        svg_text(kLeft - 4, kTop + 10, "end", format_metric(y_span.high)) +
                        svg_text(kLeft - 4, (kTop + bottom) / 2, "end", axes.y);
  for (std::size_t i = 0; i < all_series.size(); ++i) {
    const std::string colour = kColours[i % kColours.size()];
    std::string points;
    for (const auto& [x, y] : all_series[i].points) {
      if (!std::isfinite(x) || !std::isfinite(y)) {
        content += polyline(points, colour);
        points.clear();
        continue;
      }
      points += str(number(kLeft + x_span.share(x) * (kWidth - kLeft - kRight)), ",",
                    number(bottom - y_span.share(y) * (bottom - kTop)), " ");
    }
    content += polyline(points, colour);
    content += str("<text x=\"", number(kWidth - kRight), "\" y=\"",
                   number(kTop + 14 * static_cast<double>(i + 1)),
                   "\" text-anchor=\"end\" style=\"fill:", colour, "\">",
                   escape_html(all_series[i].name), "</text>");
  }
  body_ += svg(kLineHeight, title, content);
}

void Report::picture(const std::string& caption, const io::Image& image) {
  png(caption, io::encode_png(image));
}

void Report::png(const std::string& caption, std::string_view bytes) {
  body_ +=
      str("<figure><figcaption>", escape_html(caption), "</figcaption><img alt=\"",
          escape_html(caption), "\" src=\"data:image/png;base64,", base64(bytes), "\"></figure>\n");
}

std::string Report::html() const {
  return str("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>",
             escape_html(title_), "</title><style>", kStyle, "</style></head><body>\n<h1>",
             escape_html(title_), "</h1>\n", body_, "</body></html>\n");
}

void write_report(const Path& folder, const Report& report, const Json& numbers) {
  require_writable_folder(folder);
  write_durably(folder / "report.html", report.html());
  write_durably(folder / "report.json", dump_json(numbers) + "\n");
}

}  // namespace fastwan::eval
