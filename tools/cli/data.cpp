#include <cstdio>
#include <memory>

#include <unistd.h>

#include <fmt/format.h>

#include "core/text_table.h"
#include "datasets/prepared.h"
#include "datasets/registry.h"
#include "tools/cli/commands.h"
#include "tools/cli/help.h"
#include "tools/cli/options.h"
#include "tools/train/fields.h"
#include "tools/train/job_display.h"
#include "tools/train/signals.h"

namespace flare {
namespace {

constexpr const char* kFolderKeys =
    "name, kind, folder, source, licence, citation, vocabulary, classes, max_length, grid, fields (name, dtype, shape, ragged), "
    "normalisation (mean and std by field), splits (samples, labels, majority_class, majority_share, length: mean, min, q25, "
    "median, "
    "q75, max)";

const char* origin_of(const DatasetEntry& entry) {
  return entry.generate && entry.prepare ? "generate, prepare" : entry.generate ? "generate" : "prepare";
}

void list_datasets() {
  const int width = page_width(STDOUT_FILENO);
  TextTable table("llll");
  table.row({"data set", "kind", "how", "what"});
  for (const DatasetEntry& entry : registered_datasets())
    table.row({entry.name, entry.kind.substr(0, entry.kind.find('_')), origin_of(entry), entry.description});
  std::printf("%s\nOptions of flare data generate <data set> --set key=value\n", table.text(width).c_str());
  TextTable options("llll");
  options.row({"data set", "key", "default", "meaning"});
  for (const DatasetEntry& entry : registered_datasets())
    for (const DatasetOption& option : entry.options)
      options.row({entry.name, option.name, option.default_value.empty() ? "-" : option.default_value, option.help});
  std::printf("%s", options.text(width).c_str());
}

Json datasets_json() {
  Json all = Json::array();
  for (const DatasetEntry& entry : registered_datasets()) {
    Json options = Json::array();
    for (const DatasetOption& o : entry.options)
      options.push_back({{"name", o.name}, {"default", o.default_value}, {"help", o.help}});
    all.push_back({{"name", entry.name},
                   {"kind", entry.kind},
                   {"description", entry.description},
                   {"generate", entry.generate != nullptr},
                   {"prepare", entry.prepare != nullptr},
                   {"licence", entry.licence},
                   {"citation", entry.citation},
                   {"options", options}});
  }
  return {{"datasets", all}};
}

Json split_json(const SplitStatistics& s) {
  Json split = {{"samples", s.n_samples}};
  if (!s.labels.empty()) split["labels"] = s.labels;
  if (s.majority_class >= 0) split.update({{"majority_class", s.majority_class}, {"majority_share", s.majority_share}});
  if (s.has_lengths)
    split["length"] = {{"mean", s.mean_length},     {"min", s.min_length}, {"q25", s.q25_length},
                       {"median", s.median_length}, {"q75", s.q75_length}, {"max", s.max_length}};
  return split;
}

Json folder_json(const PreparedFolder& folder) {
  const DatasetInfo& info = folder.info();
  Json json = {{"name", info.name},
               {"kind", info.kind},
               {"folder", folder.path()},
               {"source", info.source},
               {"licence", info.licence},
               {"citation", info.citation},
               {"vocabulary", info.vocabulary},
               {"classes", info.n_classes},
               {"max_length", info.max_length},
               {"grid", info.grid},
               {"fields", Json::array()},
               {"normalisation", Json::object()}};
  for (const FieldInfo& f : info.fields) {
    Json shape = Json::array();
    for (const int64_t extent : f.shape) shape.push_back(extent);
    json["fields"].push_back({{"name", f.name}, {"dtype", cat(f.dtype)}, {"shape", shape}, {"ragged", f.ragged}});
  }
  for (const auto& [field, n] : info.normalisation) json["normalisation"][field] = {{"mean", n.mean}, {"std", n.std}};
  for (const std::string& split : split_names(folder)) json["splits"][split] = split_json(statistics_of(folder, split));
  return json;
}

void print(const Json& json) { std::printf("%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str()); }

void print_folder(const std::string& dir, bool as_json) {
  const PreparedFolder folder(dir);
  if (as_json)
    print(folder_json(folder));
  else
    std::printf("%s", describe(folder, page_width(STDOUT_FILENO)).c_str());
}

GenerateOptions with_extras(GenerateOptions options, const std::vector<std::string>& assignments) {
  for (const std::string& assignment : assignments) {
    const size_t equals = assignment.find('=');
    check<ConfigError>(equals != std::string::npos && equals > 0, "--set ", assignment, ": expected key=value");
    options.extra[assignment.substr(0, equals)] = assignment.substr(equals + 1);
  }
  return options;
}

/// Runs `make`, which writes `out` or, when interrupted, nothing.
template <class Make> void make_folder(const std::string& out, bool quiet, const Make& make) {
  catch_stop_signals("and removing what was begun");
  const JobDisplay display(quiet);
  try {
    make();
  } catch (const Interrupted& stop) { throw Interrupted(cat(stop.what(), "; ", out, " is as it was before")); }
}

}  // namespace

void add_data(CLI::App& app, int&) {
  struct Options {
    std::string name, out, source, dir;
    GenerateOptions generate;
    std::vector<std::string> assignments;
    bool verify = false, json = false, quiet = false;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* data = app.add_subcommand("data", "List, show, generate or import data sets");
  data->require_subcommand(1);
  data->footer(help_footer({"flare data list", "flare data generate listops --out data/listops", "flare data show data/listops"}));

  CLI::App* list = data->add_subcommand("list", "The data sets that can be generated or imported");
  list->add_flag("--json", o->json, "print one JSON object");
  list->footer(
      help_footer({"flare data list", "flare data list --json"},
                  "datasets, each with name, kind, description, generate, prepare (true or false), licence, citation, options "
                  "(name, default, help)"));
  list->callback([o] { o->json ? print(datasets_json()) : list_datasets(); });

  const auto add_output = [&o](CLI::App* command) {
    command->add_flag("--json", o->json, "print one JSON object");
    command->add_flag("--quiet", o->quiet, "no progress on stderr");
  };
  CLI::App* show = data->add_subcommand("show", "What a prepared data folder holds");
  show->add_option("dir", o->dir, "prepared data folder")->required()->type_name("DIR");
  show->add_flag("--verify", o->verify, "also compare every file with its recorded SHA-256");
  add_output(show);
  show->footer(help_footer({"flare data show data/listops", "flare data show data/listops --verify --json"},
                           cat(kFolderKeys, "; verified (after --verify)")));
  show->callback([o] {
    const PreparedFolder folder(o->dir);
    if (o->verify) {
      catch_stop_signals("the comparison");
      const JobDisplay display(o->quiet);
      folder.verify_checksums();
    }
    if (o->json) {
      Json json = folder_json(folder);
      if (o->verify) json["verified"] = true;
      print(json);
    } else {
      std::printf("%s%s", describe(folder, page_width(STDOUT_FILENO)).c_str(), o->verify ? "\nchecksums agree\n" : "");
    }
  });

  CLI::App* generate = data->add_subcommand("generate", "Generate a data set into a prepared folder");
  generate->add_option("dataset", o->name, "name, see flare data list")->required()->type_name("DATASET");
  generate->add_option("--out", o->out, "folder to write")->required()->type_name("DIR");
  generate->add_option("--seed", o->generate.seed, "seed of the generator")->capture_default_str()->check(CLI::NonNegativeNumber);
  generate->add_option("--train", o->generate.train, "samples in the train split");
  generate->add_option("--val", o->generate.val, "samples in the val split");
  generate->add_option("--test", o->generate.test, "samples in the test split");
  add_set_option(*generate, o->assignments, "an option of the data set");
  add_device_option(*generate, o->generate.device, "; a GPU serves " + datasets_for_gpu());
  add_output(generate);
  generate->footer(help_footer(
      {"flare data generate listops --out data/listops", "flare data generate pathfinder --out data/pathx --set size=128",
       "flare data generate darcy-gen --out data/darcy --train 100 --val 10 --test 20 --json"},
      cat("the folder as flare data show --json describes it: ", kFolderKeys)));
  generate->callback([o] {
    make_folder(o->out, o->quiet, [&] { generate_dataset(o->name, with_extras(o->generate, o->assignments), o->out); });
    print_folder(o->out, o->json);
  });

  CLI::App* prepare = data->add_subcommand("prepare", "Import published files into a prepared folder");
  prepare->add_option("dataset", o->name, "name, see flare data list")->required()->type_name("DATASET");
  prepare->add_option("--source", o->source, "folder of the published files")->required()->type_name("DIR");
  prepare->add_option("--out", o->out, "folder to write")->required()->type_name("DIR");
  add_output(prepare);
  prepare->footer(help_footer({"flare data prepare text --source downloads/aclImdb --out data/text",
                               "flare data prepare elasticity --source downloads/elasticity --out data/elasticity"},
                              cat("the folder as flare data show --json describes it: ", kFolderKeys)));
  prepare->callback([o] {
    make_folder(o->out, o->quiet, [&] { prepare_dataset(o->name, o->source, o->out); });
    print_folder(o->out, o->json);
  });
}

}  // namespace flare
