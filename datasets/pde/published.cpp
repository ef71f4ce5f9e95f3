#include "datasets/pde/published.h"

#include <numeric>
#include <random>

#include "core/file.h"
#include "core/job.h"
#include "datasets/import/npz.h"

namespace flare {

Tensor read_published(const std::string& source_dir, const std::string& folder, const std::string& file, const Shape& expected,
                      const std::string& needs) {
  check<DataError>(directory_exists(source_dir), source_dir, ": no such folder");
  std::string path = source_dir + "/" + file;
  if (!file_exists(path) && !folder.empty()) path = source_dir + "/" + folder + "/" + file;
  check<DataError>(file_exists(path), source_dir, "/", file, ": not found; ", needs);
  Job job(cat(file, ": reading"), 1, "arrays");
  const JobItem item(job);
  const Tensor array = read_array(path);
  bool fits = array.ndim() == expected.ndim();
  for (int a = 0; fits && a < array.ndim(); ++a) fits = expected[a] < 0 || expected[a] == array.size(a);
  check<DataError>(fits, path, ": has shape ", array.shape(), ", expected ", expected, " (-1: any)");
  check<DataError>(is_float(array.dtype()), path, ": holds ", array.dtype(), ", expected floating-point numbers");
  return array;
}

void check_ranges(const std::string& file, const std::vector<SampleRange>& ranges, int64_t samples) {
  for (const SampleRange& r : ranges)
    check<DataError>(r.first + r.count <= samples, file, ": has ", samples, " samples; split ", r.name, " needs those from ",
                     r.first, " to ", r.first + r.count - 1);
}

std::vector<int64_t> torch_randperm(int64_t n, uint32_t seed, int64_t count) {
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::mt19937 random(seed);
  for (int64_t i = 0; i + 1 < n; ++i)
    std::swap(order[static_cast<size_t>(i)],
              order[static_cast<size_t>(i + static_cast<int64_t>(random() % static_cast<uint64_t>(n - i)))]);
  order.resize(static_cast<size_t>(count));
  return order;
}

}  // namespace flare
