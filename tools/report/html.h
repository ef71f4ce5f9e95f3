#pragma once
/// Text for an HTML page: escaping, numbers, tables.
#include <string>
#include <string_view>
#include <vector>

#include "tools/train/fields.h"

namespace flare {

/// & < > " ' escaped, control characters and bytes that are not UTF-8 replaced by U+FFFD; fit for text and quoted attributes.
std::string html_escape(std::string_view text);
/// JSON that may stand inside a <script> element: no "<" in it, so nothing in a string can end the element.
std::string script_json(const Json& value);
/// Source: RFC 4648, section 4.
std::string base64(std::string_view bytes);

/// `digits` significant digits with G, M, k or an exponent where that is shorter: 1.25, 20k, 5e-4; "–" for NaN. report.js has the
/// same rule.
std::string short_number(double value, int digits = 6);
/// fmt's format applied to the value; "–" for NaN.
std::string number_or_dash(double value, const char* format = "{:.4f}");

/// A table for the page and the terminal. Cells are plain text.
struct Table {
  std::string caption;
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;  // the first cell of a row names it
  size_t text_columns = 1;                     // the columns after these hold numbers
};
/// In a box of its own, which scrolls when the window is narrower than the table.
std::string html_table(const Table& table);
/// Aligned columns, one line a row, without the caption.
std::string text_table(const Table& table);

}  // namespace flare
