#pragma once
#include <string>

namespace flare {

/// report.css and report.js, compiled in.
extern const char* const kReportCss;
extern const char* const kReportJs;

/// The whole page around `body`: one file that loads nothing. Its Content-Security-Policy names the one script that may run, by
/// hash, and allows no address, so even text that escaped its escaping could neither run nor send anything.
std::string html_page(const std::string& title, const std::string& body);

}  // namespace flare
