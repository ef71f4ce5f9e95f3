#pragma once
#include <string>
#include <vector>

#include "datasets/import/npz.h"
#include "datasets/prepared.h"

namespace flare {

// What the importers of published meshes share: a .npz file a sample, each with as many points as its mesh has.

/// One split: x [N_i,in] and y [N_i,out] of each sample, f32.
struct MeshSplit {
  std::string name;
  std::vector<Tensor> x, y;
};

/// The files of a split: those that source_dir/<split>.txt lists (paths from source_dir, one a line), in its order; else the .npz
/// files of source_dir/<split>/, run_2 before run_10. Empty where there is neither. DataError for a listed file that is missing.
std::vector<std::string> mesh_files(const std::string& source_dir, const std::string& split);
/// DataError naming a file name that two splits share.
void check_disjoint(const std::vector<std::string>& a, const std::vector<std::string>& b);

/// Columns [first, first+count) of the floating-point member [N,columns] of an archive, as f32 [N,count]; `columns` -1: any number
/// that has those. DataError naming file and member: it is missing, pickled, of another shape, or not finite at a point.
Tensor read_columns(const NpzFile& archive, const std::string& path, const std::string& member, int64_t columns, int64_t first,
                    int64_t count);

/// Writes a prepared folder of kind field_regression: fields [N,c] a sample where all meshes have equally many points, else ragged
/// ones. Releases the splits while it writes.
void write_mesh_set(const std::string& out_dir, DatasetInfo info, std::vector<MeshSplit> splits);

}  // namespace flare
