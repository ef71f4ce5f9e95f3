#include "tools/report/html.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace flare {
namespace {

constexpr const char* kReplacement = "\xef\xbf\xbd";

/// Bytes of the UTF-8 sequence at `at`; 0 when there is none. Overlong forms and surrogates are not told apart: no harm on a page.
size_t sequence_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const size_t n = byte(at) < 0x80 ? 1 : byte(at) >= 0xf0 && byte(at) < 0xf5 ? 4 : byte(at) >= 0xe0 ? 3 : byte(at) >= 0xc2 ? 2 : 0;
  if (n == 0 || byte(at) >= 0xf5 || at + n > text.size()) return 0;
  for (size_t i = 1; i < n; ++i)
    if ((byte(at + i) & 0xc0) != 0x80) return 0;
  return n;
}

size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

std::string html_escape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const size_t n = sequence_length(text, i);
    const char c = text[i];
    if (n == 0 || (n == 1 && static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7f) {
      out += kReplacement;
    } else if (n > 1) {
      out += text.substr(i, n);
    } else {
      switch (c) {
        case '&': out += "&amp;"; break;
        case '<': out += "&lt;"; break;
        case '>': out += "&gt;"; break;
        case '"': out += "&quot;"; break;
        case '\'': out += "&#39;"; break;
        default: out += c;
      }
    }
    i += std::max<size_t>(n, 1);
  }
  return out;
}

std::string script_json(const Json& value) {
  std::string out;
  for (const char c : value.dump(-1, ' ', false, Json::error_handler_t::replace)) {
    if (c == '<')
      out += "\\u003c";
    else
      out += c;
  }
  return out;
}

std::string base64(std::string_view bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (k < n ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) out += k <= n ? kDigits[group >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

std::string short_number(double value, int digits) {
  if (std::isnan(value)) return "–";
  if (value == 0) return "0";  // and not -0
  const double size = std::abs(value);
  const auto scaled = [&](double by, const char* suffix) { return fmt::format("{:.{}g}{}", value / by, digits, suffix); };
  if (size >= 1e15 || size < 1e-3) {
    std::string text = fmt::format("{:.{}e}", value, digits - 1);  // 5.00000e-04
    const size_t e = text.find('e');
    if (e == std::string::npos) return text;
    std::string lead = text.substr(0, e), power = std::to_string(std::stoi(text.substr(e + 1)));
    if (lead.find('.') != std::string::npos) {
      lead.erase(lead.find_last_not_of('0') + 1);
      if (lead.back() == '.') lead.pop_back();
    }
    return lead + "e" + power;
  }
  if (size >= 1e9) return scaled(1e9, "G");
  if (size >= 1e6) return scaled(1e6, "M");
  if (size >= 1e4) return scaled(1e3, "k");
  return scaled(1, "");
}

std::string number_or_dash(double value, const char* format) {
  return std::isnan(value) ? "–" : fmt::format(fmt::runtime(format), value);
}

std::string html_table(const Table& table) {
  std::string html = "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"" + html_escape(table.caption) +
                     "\"><table><caption>" + html_escape(table.caption) + "</caption>\n<thead><tr>";
  const auto style = [&](size_t column) { return column < table.text_columns ? "" : " class=\"n\""; };
  for (size_t i = 0; i < table.head.size(); ++i)
    html += fmt::format("<th scope=\"col\"{}>{}</th>", style(i), html_escape(table.head[i]));
  html += "</tr></thead>\n<tbody>";
  for (const std::vector<std::string>& row : table.rows) {
    html += "<tr>";
    for (size_t i = 0; i < row.size(); ++i)
      html += i == 0 ? fmt::format("<th scope=\"row\">{}</th>", html_escape(row[i]))
                     : fmt::format("<td{}>{}</td>", style(i), html_escape(row[i]));
    html += "</tr>\n";
  }
  return html + "</tbody></table></div>\n";
}

std::string text_table(const Table& table) {
  std::vector<size_t> widths;
  std::vector<std::vector<std::string>> rows = {table.head};
  rows.insert(rows.end(), table.rows.begin(), table.rows.end());
  for (std::vector<std::string>& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) {
      for (char& c : row[i])
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
      widths[i] = std::max(widths[i], width_of(row[i]));
    }
  }
  std::string text;
  for (const std::vector<std::string>& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string fill(widths[i] - width_of(row[i]), ' ');
      line += (i ? "  " : "") + (i < table.text_columns ? row[i] + fill : fill + row[i]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

}  // namespace flare
