#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "datasets/pde/field_set.h"

namespace flare {

// What the importers of published files share.

/// Samples [first, first+count) of the published arrays.
struct SampleRange {
  std::string name;
  int64_t first = 0, count = 0;
};

/// Reads source_dir/file, or source_dir/<folder>/file; .npy or .npz by its ending. `expected` has -1 where any extent will do.
/// DataError saying which files the data set needs when it is missing, and what shape was expected when it has another, or holds
/// integers.
Tensor read_published(const std::string& source_dir, const std::string& folder, const std::string& file, const Shape& expected,
                      const std::string& needs);
/// DataError unless every range lies in [0, samples).
void check_ranges(const std::string& file, const std::vector<SampleRange>& ranges, int64_t samples);

/// The sizes of published files; tests import smaller ones of the same form.
struct ElasticitySizes {
  int64_t points = 972;
  std::vector<SampleRange> splits = {{"train", 0, 1000}, {"val", 1000, 100}, {"test", 1800, 200}};
};
struct StructuredSizes {
  int64_t h = 0, w = 0;
  std::vector<SampleRange> splits = {{"train", 0, 1000}, {"test", 1000, 200}, {"val", 1200, 100}};
};
struct PlasticitySizes {
  int64_t h = 101, w = 31, steps = 20;
  std::vector<SampleRange> splits = {{"train", 0, 900}, {"val", 900, 7}, {"test", 907, 80}};
};
struct NavierStokesSizes {
  int64_t side = 64, steps = 20;
  std::vector<SampleRange> splits = {{"train", 0, 1000}, {"test", 1000, 200}};
};
struct DarcySizes {
  int64_t side = 421, stride = 5, train = 1000, test = 200, val = 100;
};
struct LpbfSizes {
  int64_t train = 1100, test = 290;
};

// Each takes the folder of the published files and writes a prepared folder with the published split, the normalisation of the
// published training code, and, where the files hold samples that no published split uses, a validation split made of those.
void import_elasticity(const std::string& source_dir, const std::string& out_dir, const ElasticitySizes& sizes);
void import_airfoil(const std::string& source_dir, const std::string& out_dir, const StructuredSizes& sizes);
void import_pipe(const std::string& source_dir, const std::string& out_dir, const StructuredSizes& sizes);
void import_plasticity(const std::string& source_dir, const std::string& out_dir, const PlasticitySizes& sizes);
void import_navier_stokes(const std::string& source_dir, const std::string& out_dir, const NavierStokesSizes& sizes);
void import_darcy_mat(const std::string& source_dir, const std::string& out_dir, const DarcySizes& sizes);
/// Whole ShapeNet-Car (mlcfd_data/training_data/param0..8/*/{quadpress_smpl.vtk,press.npy}): test = the first 189 of
/// torch.randperm(889) from seed 0, train = the others; `cars` below 889 for tests. Or shapenet_car_sample.npz: 3 cars and 1.
void import_shapenet_car(const std::string& source_dir, const std::string& out_dir, int64_t cars, int64_t test_cars);
/// FLARE.py's presampled DrivAerML: {train,test}/run_<k>.npz, of a folder val too if there is one.
void import_drivaerml(const std::string& source_dir, const std::string& out_dir);
/// LPBF: the .npz files that train.txt and test.txt list, or those of folders train and test; named lpbf-part unless there are as
/// many as were published.
void import_lpbf(const std::string& source_dir, const std::string& out_dir, const LpbfSizes& sizes);
/// The first `count` numbers of torch.randperm(n) on the CPU from this seed.
std::vector<int64_t> torch_randperm(int64_t n, uint32_t seed, int64_t count);

}  // namespace flare
