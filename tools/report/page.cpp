#include "tools/report/page.h"

#include <fmt/format.h>

#include "core/sha256.h"
#include "tools/report/html.h"

namespace flare {
namespace {

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  return bytes;
}

}  // namespace

std::string html_page(const std::string& title, const std::string& body) {
  const std::string script = kReportJs;
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, "
      "initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">\n<meta http-equiv=\"Content-Security-Policy\" "
      "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'\">\n<title>{} · "
      "flare</title>\n<style>{}</style></head>\n<body><main>\n{}</main>\n<script>{}</script></body></html>\n",
      base64(from_hex(sha256_hex(script))), html_escape(title), kReportCss, body, script);
}

}  // namespace flare
