#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "datasets/prepared.h"
#include "datasets/registry.h"
#include "tools/cli/commands.h"

namespace flare {
namespace {

void list_datasets() {
  for (const DatasetEntry& entry : registered_datasets()) {
    const std::string how = entry.generate && entry.prepare ? "generate, prepare" : entry.generate ? "generate" : "prepare";
    std::printf("%s", fmt::format("{:16} {:26} {:18} {}\n", entry.name, entry.kind, how, entry.description).c_str());
    for (const DatasetOption& option : entry.options)
      std::printf("%s", fmt::format("{:16}   --set {}={}  {}\n", "", option.name, option.default_value, option.help).c_str());
  }
}

GenerateOptions with_extras(GenerateOptions options, const std::vector<std::string>& assignments) {
  for (const std::string& assignment : assignments) {
    const size_t equals = assignment.find('=');
    check<ConfigError>(equals != std::string::npos && equals > 0, "--set ", assignment, ": expected key=value");
    options.extra[assignment.substr(0, equals)] = assignment.substr(equals + 1);
  }
  return options;
}

}  // namespace

void add_data(CLI::App& app, int&) {
  struct Options {
    std::string name, out, source, dir;
    GenerateOptions generate;
    std::vector<std::string> assignments;
    bool verify = false;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* data = app.add_subcommand("data", "List, show, generate or import data sets");
  data->require_subcommand(1);

  data->add_subcommand("list", "The data sets that can be generated or imported")->callback([] { list_datasets(); });

  CLI::App* show = data->add_subcommand("show", "What a prepared data folder holds");
  show->add_option("dir", o->dir, "prepared data folder")->required();
  show->add_flag("--verify", o->verify, "also compare every file with its recorded SHA-256");
  show->callback([o] {
    const PreparedFolder folder(o->dir);
    if (o->verify) folder.verify_checksums();
    std::printf("%s%s", describe(folder).c_str(), o->verify ? "checksums agree\n" : "");
  });

  CLI::App* generate = data->add_subcommand("generate", "Generate a data set into a prepared folder");
  generate->add_option("dataset", o->name, "name, see flare data list")->required();
  generate->add_option("--out", o->out, "folder to write")->required();
  generate->add_option("--seed", o->generate.seed, "seed of the generator")->capture_default_str()->check(CLI::NonNegativeNumber);
  generate->add_option("--train", o->generate.train, "samples in the train split");
  generate->add_option("--val", o->generate.val, "samples in the val split");
  generate->add_option("--test", o->generate.test, "samples in the test split");
  generate->add_option("--set", o->assignments, "an option of the data set (repeatable)")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  generate->callback([o] {
    generate_dataset(o->name, with_extras(o->generate, o->assignments), o->out);
    std::printf("%s", describe(PreparedFolder(o->out)).c_str());
  });

  CLI::App* prepare = data->add_subcommand("prepare", "Import published files into a prepared folder");
  prepare->add_option("dataset", o->name, "name, see flare data list")->required();
  prepare->add_option("--source", o->source, "folder of the published files")->required();
  prepare->add_option("--out", o->out, "folder to write")->required();
  prepare->callback([o] {
    prepare_dataset(o->name, o->source, o->out);
    std::printf("%s", describe(PreparedFolder(o->out)).c_str());
  });
}

}  // namespace flare
