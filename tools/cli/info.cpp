#include <cstdio>
#include <fstream>
#include <memory>

#include <unistd.h>

#include <cblas.h>
#include <fmt/format.h>
#if defined(FLARE_CUDA)
#include <cublas_v2.h>
#endif

#include "autograd/op.h"
#include "core/device.h"
#include "core/parallel.h"
#include "core/text_table.h"
#include "datasets/registry.h"
#include "tools/cli/commands.h"
#include "tools/cli/help.h"
#include "tools/train/fields.h"
#include "tools/train/progress.h"
#include "tools/train/version.h"

namespace flare {
namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(std::min(line.find(':') + 2, line.size()));
  return "unknown";
}

std::string cuda_version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

Json gather_info() {
  Json info = {{"version", FLARE_VERSION}, {"commit", git_version()}};
  Json& build = info["build"];
  build = {{"compiler", fmt::format("gcc {}", __VERSION__)}, {"cxx", __cplusplus}, {"cuda", cuda_built()}};
#if defined(__clang__)
  build["compiler"] = __VERSION__;
#endif
#if defined(NDEBUG)
  build["assertions"] = false;
#else
  build["assertions"] = true;
#endif
#if defined(__AVX512F__)
  build["vectors"] = "avx512";
#elif defined(__AVX2__)
  build["vectors"] = "avx2";
#else
  build["vectors"] = "baseline";
#endif
#if defined(__SANITIZE_ADDRESS__)
  build["sanitizers"] = true;
#else
  build["sanitizers"] = false;
#endif
  info["libraries"] = {
      {"openblas", openblas_get_config()},
      {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100)},
      {"json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR, NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)},
      {"cli11", CLI11_VERSION}};
#if defined(FLARE_CUDA)
  int major = 0, minor = 0, patch = 0;
  cublasGetProperty(MAJOR_VERSION, &major);
  cublasGetProperty(MINOR_VERSION, &minor);
  cublasGetProperty(PATCH_LEVEL, &patch);
  info["libraries"]["cublas"] = fmt::format("{}.{}.{}", major, minor, patch);
#endif
  info["cpu"] = {{"name", processor_name()}, {"threads", thread_count()}};
  info["gpus"] = Json::array();
  if (cuda_available()) {
    for (int i = 0; i < cuda_device_count(); ++i) {
      const CudaInfo gpu = cuda_info(i);
      info["gpus"].push_back({{"index", gpu.index},
                              {"name", gpu.name},
                              {"sm", gpu.sm},
                              {"multiprocessors", gpu.multiprocessors},
                              {"memory_bytes", gpu.memory_bytes},
                              {"free_bytes", gpu.free_bytes},
                              {"driver", cuda_version_text(gpu.driver)},
                              {"runtime", cuda_version_text(gpu.runtime)}});
    }
  }
  info["ops"] = registered_ops().size();
  info["datasets"] = registered_datasets().size();
  return info;
}

void print_info(const Json& info) {
  std::vector<std::pair<std::string, std::string>> rows;
  rows.emplace_back("commit", info["commit"].get<std::string>());
  const Json& build = info["build"];
  rows.emplace_back(
      "build", fmt::format("{}, vectors {}, CUDA {}{}", build["compiler"].get<std::string>(), build["vectors"].get<std::string>(),
                           build["cuda"].get<bool>() ? "yes" : "no", build["sanitizers"].get<bool>() ? ", sanitizers" : ""));
  rows.emplace_back("cpu",
                    fmt::format("{}, {} threads", info["cpu"]["name"].get<std::string>(), info["cpu"]["threads"].get<int>()));
  for (const Json& gpu : info["gpus"])
    rows.emplace_back(
        fmt::format("cuda:{}", gpu["index"].get<int>()),
        fmt::format("{}, sm_{}, {} ({} free), driver {}, runtime {}", gpu["name"].get<std::string>(), gpu["sm"].get<int>(),
                    format_bytes(gpu["memory_bytes"].get<int64_t>()), format_bytes(gpu["free_bytes"].get<int64_t>()),
                    gpu["driver"].get<std::string>(), gpu["runtime"].get<std::string>()));
  if (info["gpus"].empty()) rows.emplace_back("gpu", build["cuda"].get<bool>() ? "none usable" : "none (built without CUDA)");
  for (const auto& [name, version] : info["libraries"].items()) rows.emplace_back(name, version.get<std::string>());
  rows.emplace_back("ops", info["ops"].dump());
  rows.emplace_back("datasets", info["datasets"].dump());
  std::fputs(format_table("flare " + info["version"].get<std::string>(), rows, page_width(STDOUT_FILENO)).c_str(), stdout);
}

}  // namespace

void add_info(CLI::App& app, int&) {
  const auto json = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("info", "Devices, build and library versions");
  command->add_flag("--json", *json, "print one JSON object");
  command->footer(
      help_footer({"flare info", "flare info --json"},
                  "version, build, libraries, cpu (name, threads), gpus (index, name, sm, multiprocessors, memory_bytes, "
                  "free_bytes, driver, runtime), ops, datasets"));
  command->callback([json] {
    const Json info = gather_info();
    if (*json)
      std::printf("%s\n", info.dump().c_str());
    else
      print_info(info);
  });
}

}  // namespace flare
