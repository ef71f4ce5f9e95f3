#include "tools/train/config.h"

#include <fmt/format.h>

#include "core/file.h"
#include "core/sha256.h"

namespace flare {
namespace {

/// Limits of values whose structs know none: the optimizer's arithmetic accepts any number, a training run does not.
void check_recipe(Recipe& recipe, const std::string& where) {
  const FieldList list = recipe.fields();
  const auto need = [&](const char* key, auto holds, const char* expected) {
    const Field* field = list.find(key);
    if (!field) return;
    const Json value = field->get();
    if (value.is_number())
      check<ConfigError>(holds(value.get<double>()), where, ": ", key, ": expected ", expected, ", got ", value.dump());
  };
  const auto positive = [](double x) { return x > 0; };
  const auto not_negative = [](double x) { return x >= 0; };
  const auto below_one = [](double x) { return x >= 0 && x < 1; };
  const auto at_least_one = [](double x) { return x >= 1; };
  need("optim.lr", not_negative, "a number of at least 0");
  need("optim.weight_decay", not_negative, "a number of at least 0");
  need("optim.beta1", below_one, "a number in [0, 1)");
  need("optim.beta2", below_one, "a number in [0, 1)");
  need("optim.momentum", below_one, "a number in [0, 1)");
  need("optim.eps", positive, "a number above 0");
  if (recipe.task.objective == "reconstruct")
    need(
        "task.masked_share", [](double x) { return x > 0 && x < 1; }, "a number in (0, 1)");
  need("model.blocks", at_least_one, "an integer of at least 1");
  need("model.channels", at_least_one, "an integer of at least 1");
  need("model.heads", at_least_one, "an integer of at least 1");
  need("model.latents", at_least_one, "an integer of at least 1");
  need("model.dropout", below_one, "a number in [0, 1)");
  const auto value_of = [&](const char* key) {
    const Field* field = list.find(key);
    return field ? field->get().get<int64_t>() : 1;
  };
  const int64_t channels = value_of("model.channels"), heads = value_of("model.heads");
  check<ConfigError>(channels % heads == 0, where, ": model.heads: ", heads, " does not divide model.channels ", channels);
}

}  // namespace

Recipe parse_recipe(const std::string& text, const std::string& where, const std::vector<std::string>& assignments) {
  Recipe recipe;
  FieldList list = recipe.fields();
  list.read(parse_json_text(text, where), where);
  for (const std::string& assignment : assignments) list.set_from_text(assignment);
  check_recipe(recipe, where);
  return recipe;
}

Recipe read_recipe(const std::string& path, const std::vector<std::string>& assignments) {
  check<ConfigError>(file_exists(path), path,
                     ": no such recipe file; recipes are under tools/configs/, e.g. tools/configs/lra/listops.json");
  return parse_recipe(read_file(path), path, assignments);
}

Json recipe_json(Recipe recipe) { return recipe.fields().write(); }

std::string recipe_hash(Recipe recipe) {
  recipe.version.clear();
  return sha256_hex(recipe_json(recipe).dump());
}

std::string first_difference(Recipe there, Recipe here) {
  const FieldList a = there.fields(), b = here.fields();
  for (size_t i = 0; i < a.fields().size(); ++i) {
    const std::string& key = a.fields()[i].key;
    const Json old_value = a.fields()[i].get(), new_value = b.fields()[i].get();
    if (key != "version" && old_value != new_value)
      return cat(key, " is ", old_value.dump(), " there and ", new_value.dump(), " here");
  }
  return "";
}

std::string config_help() {
  Recipe recipe;
  std::string text = "Keys of a recipe file, each also settable as --set key=value:\n";
  const FieldList list = recipe.fields();
  for (const Field& field : list.fields())
    if (field.key != "version")
      text += fmt::format("  {:28} {}\n  {:28}   {}; default {}\n", field.key, field.help, "", field.type, field.get().dump());
  return text;
}

}  // namespace flare
