#include "core/text_table.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace flare {
namespace {

constexpr int kNarrowestColumn = 24;

bool begins_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }

}  // namespace

int terminal_columns(int descriptor, int otherwise) {
  winsize size = {};
  if (!isatty(descriptor)) return otherwise;
  return ioctl(descriptor, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? std::max<int>(size.ws_col, 40) : 80;
}

int page_width(int descriptor) { return std::min(terminal_columns(descriptor, 100), 120); }

size_t text_width(std::string_view text) { return static_cast<size_t>(std::count_if(text.begin(), text.end(), begins_character)); }

std::string cut_text(std::string_view text, int width) {
  int n = 0;
  for (size_t i = 0; i < text.size(); ++i)
    if (begins_character(text[i]) && ++n > width) return std::string(text.substr(0, i));
  return std::string(text);
}

std::vector<std::string> wrap_text(std::string_view text, int width) {
  std::vector<std::string> lines;
  std::string line;
  for (size_t i = 0; i < text.size();) {
    const size_t end = std::min(text.find(' ', i), text.size());
    const std::string_view word = text.substr(i, end - i);
    i = end + 1;
    if (word.empty()) continue;
    if (!line.empty() && text_width(line) + 1 + text_width(word) > static_cast<size_t>(std::max(width, 1))) {
      lines.push_back(std::move(line));
      line.clear();
    }
    if (!line.empty()) line += ' ';
    line += word;
  }
  if (!line.empty() || lines.empty()) lines.push_back(std::move(line));
  return lines;
}

std::string wrap_indented(std::string_view text, int width, int indent) {
  std::string out;
  for (const std::string& line : wrap_text(text, width - indent)) {
    if (!out.empty()) out.append(1, '\n').append(static_cast<size_t>(indent), ' ');
    out += line;
  }
  return out;
}

void TextTable::row(std::vector<std::string> cells) {
  cells.resize(alignment_.size());
  rows_.push_back(std::move(cells));
}

std::string TextTable::text(int width, int indent) const {
  const size_t n = alignment_.size();
  std::vector<size_t> widths(n);
  for (const std::vector<std::string>& cells : rows_)
    for (size_t c = 0; c < n; ++c) widths[c] = std::max(widths[c], text_width(cells[c]));
  int before_last = indent;
  for (size_t c = 0; c + 1 < n; ++c) before_last += static_cast<int>(widths[c]) + 2;
  std::string out;
  for (const std::vector<std::string>& cells : rows_) {
    std::string line(static_cast<size_t>(indent), ' ');
    for (size_t c = 0; c < n; ++c) {
      const size_t padding = widths[c] - text_width(cells[c]);
      if (c > 0) line.append(2, ' ');
      if (alignment_[c] == 'r')
        line.append(padding, ' ').append(cells[c]);
      else if (c + 1 < n)
        line.append(cells[c]).append(padding, ' ');
      else
        line += wrap_indented(cells[c], std::max(width, before_last + kNarrowestColumn), before_last);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out.append(line).append(1, '\n');
  }
  return out;
}

}  // namespace flare
