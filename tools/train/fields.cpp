#include "tools/train/fields.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace flare {
namespace {

std::string shown(const Json& json) {
  std::string text = json.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

[[noreturn]] void wrong_type(const std::string& key, const char* expected, const Json& json) {
  throw ConfigError(cat(key, ": expected ", expected, ", got ", json.type_name(), " ", shown(json)));
}

std::string number_text(double x) {
  std::ostringstream out;
  out.precision(12);
  out << x;
  return out.str();
}

}  // namespace

int edit_distance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

const Field* FieldList::find(const std::string& key) const {
  for (const Field& field : fields_)
    if (field.key == key) return &field;
  return nullptr;
}

bool FieldList::is_section(const std::string& key) const {
  return std::any_of(fields_.begin(), fields_.end(), [&](const Field& f) { return f.key.starts_with(key + "."); });
}

std::string FieldList::nearest(const std::string& key) const {
  std::set<std::string> names;
  for (const Field& field : fields_) {
    names.insert(field.key);
    for (size_t dot = field.key.find('.'); dot != std::string::npos; dot = field.key.find('.', dot + 1))
      names.insert(field.key.substr(0, dot));
  }
  std::string best;
  int best_distance = std::numeric_limits<int>::max();
  const auto last_part = [](const std::string& s) { return s.substr(s.rfind('.') + 1); };
  for (const std::string& name : names) {
    // A key put into the wrong section is as close as one letter off.
    int distance = edit_distance(key, name);
    if (last_part(name) == last_part(key)) distance = std::min(distance, 1);
    if (distance < best_distance) {
      best_distance = distance;
      best = name;
    }
  }
  return best;
}

void FieldList::read(const Json& tree, const std::string& where) {
  try {
    check<ConfigError>(tree.is_object(), "expected an object {...} at the top, got ", tree.type_name());
    read_into(tree, "");
  } catch (const ConfigError& error) { throw ConfigError(cat(where, ": ", error.what())); }
}

void FieldList::read_into(const Json& tree, const std::string& prefix) {
  for (const auto& [name, value] : tree.items()) {
    const std::string key = prefix + name;
    if (const Field* field = find(key)) {
      field->set(value);
    } else if (is_section(key)) {
      if (!value.is_object()) wrong_type(key, "an object of settings", value);
      read_into(value, key + ".");
    } else {
      throw ConfigError(cat("unknown key ", key, "; did you mean ", nearest(key), "?"));
    }
  }
}

void FieldList::set_from_text(const std::string& assignment) {
  const size_t equals = assignment.find('=');
  check<ConfigError>(equals != std::string::npos && equals > 0, "--set ", assignment,
                     ": expected key=value, for example optim.lr=5e-4");
  const std::string key = assignment.substr(0, equals), text = assignment.substr(equals + 1);
  const Field* field = find(key);
  if (!field) {
    check<ConfigError>(!is_section(key), "--set ", key, ": is a section, not a value; set one of its keys, for example ", key,
                       ".<name>=<value>");
    throw ConfigError(cat("--set: unknown key ", key, "; did you mean ", nearest(key), "?"));
  }
  try {
    if (field->is_text) {
      field->set(Json(text));
      return;
    }
    const Json value = Json::parse(text, nullptr, false);
    if (value.is_discarded()) wrong_type(key, field->type == "bool" ? "true or false" : "a number", Json(text));
    field->set(value);
  } catch (const ConfigError& error) { throw ConfigError(cat("--set ", error.what())); }
}

Json FieldList::write() const {
  Json tree = Json::object();
  for (const Field& field : fields_) {
    Json* node = &tree;
    size_t begin = 0;
    for (size_t dot = field.key.find('.'); dot != std::string::npos; begin = dot + 1, dot = field.key.find('.', begin))
      node = &(*node)[field.key.substr(begin, dot - begin)];
    (*node)[field.key.substr(begin)] = field.get();
  }
  return tree;
}

void FieldList::convert(const std::string& key, const Json& json, bool& out) {
  if (!json.is_boolean()) wrong_type(key, "true or false", json);
  out = json.get<bool>();
}

void FieldList::convert(const std::string& key, const Json& json, double& out) {
  if (!json.is_number()) wrong_type(key, "a number", json);
  out = json.get<double>();
  if (!std::isfinite(out)) wrong_type(key, "a finite number", json);
}

void FieldList::convert(const std::string& key, const Json& json, std::string& out) {
  if (!json.is_string()) wrong_type(key, "a string", json);
  out = json.get<std::string>();
}

void FieldList::convert(const std::string& key, const Json& json, int64_t& out) {
  // 1e4 is a float in JSON, and a fine way to write ten thousand.
  if (json.is_number_float()) {
    const double x = json.get<double>();
    if (x != std::floor(x) || std::abs(x) > 0x1p53) wrong_type(key, "an integer", json);
    out = static_cast<int64_t>(x);
    return;
  }
  if (!json.is_number_integer()) wrong_type(key, "an integer", json);
  if (json.is_number_unsigned() && json.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    wrong_type(key, "an integer below 2^63", json);
  out = json.get<int64_t>();
}

void FieldList::convert(const std::string& key, const Json& json, uint64_t& out) {
  if (json.is_number_unsigned()) {
    out = json.get<uint64_t>();
    return;
  }
  int64_t value = 0;
  convert(key, json, value);
  check<ConfigError>(value >= 0, key, ": expected an integer of at least 0, got ", value);
  out = static_cast<uint64_t>(value);
}

std::string FieldList::describe_range(const Between& range) {
  return cat("[", number_text(range.lo), ", ", number_text(range.hi), "]");
}

void FieldList::add_limit(Field& field, const Between& range) { field.type += cat(" in ", describe_range(range)); }

void FieldList::add_limit(Field& field, const OneOf& choice) {
  field.type.clear();
  for (const std::string& word : choice.words) field.type += (field.type.empty() ? "" : "|") + word;
}

void FieldList::check_limit(const std::string& key, const std::string& value, const OneOf& choice) {
  if (std::find(choice.words.begin(), choice.words.end(), value) != choice.words.end()) return;
  std::string known;
  for (const std::string& word : choice.words) known += (known.empty() ? "" : ", ") + word;
  throw ConfigError(cat(key, ": expected one of ", known, ", got \"", value, "\""));
}

Json parse_json_text(const std::string& text, const std::string& where) {
  std::vector<std::set<std::string>> seen;
  const auto callback = [&](int, Json::parse_event_t event, Json& value) {
    if (event == Json::parse_event_t::object_start) seen.emplace_back();
    if (event == Json::parse_event_t::object_end) seen.pop_back();
    if (event == Json::parse_event_t::key)
      check<ConfigError>(seen.back().insert(value.get<std::string>()).second, where, ": key \"", value.get<std::string>(),
                         "\" appears twice in one object");
    return true;
  };
  try {
    return Json::parse(text, callback, true, true);
  } catch (const Json::parse_error& error) {
    const size_t at = std::min(error.byte > 0 ? error.byte - 1 : 0, text.size());
    const auto line = 1 + std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n');
    const size_t line_start = at == 0 ? std::string::npos : text.rfind('\n', at - 1);
    const size_t column = at - (line_start == std::string::npos ? 0 : line_start + 1) + 1;
    throw ConfigError(cat(where, ": not valid JSON at line ", line, ", column ", column));
  }
}

}  // namespace flare
