#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace flare {

/// Columns of the terminal on this descriptor, 40 at least; `otherwise` when it is none.
int terminal_columns(int descriptor, int otherwise);
/// The width of text for people on this descriptor: a terminal's up to 120 columns, else 100.
int page_width(int descriptor);
/// Columns that UTF-8 text takes: its code points.
size_t text_width(std::string_view text);
/// The first `width` code points at most.
std::string cut_text(std::string_view text, int width);
/// Lines of at most `width` columns, broken at spaces; a word longer than that stays whole.
std::vector<std::string> wrap_text(std::string_view text, int width);
/// The same joined, each line after the first indented by `indent` spaces.
std::string wrap_indented(std::string_view text, int width, int indent);

/// Rows of columns, two spaces apart. The alignment has a letter a column, l or r; a last column of l is wrapped to the page.
class TextTable {
 public:
  explicit TextTable(std::string alignment) : alignment_(std::move(alignment)) {}
  /// Missing cells are empty.
  void row(std::vector<std::string> cells);
  /// Every line begins with `indent` spaces and ends with a newline.
  std::string text(int width, int indent = 0) const;

 private:
  std::string alignment_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace flare
