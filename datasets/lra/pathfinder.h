#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "datasets/registry.h"

namespace flare {

/// How a Pathfinder picture is drawn: two long dashed paths grow side by side without crossing, shorter ones distract, and two
/// discs mark ends of paths; the label is whether both lie on the same path. Source: the snakes generator of Linsley et al.,
/// "Learning long-range spatial dependencies with horizontal gated-recurrent units", 2018, as Long Range Arena sets it ("hard").
struct PathfinderRules {
  int size = 32;             // pixels of a side, at most 128
  int padding = 1;           // border that the two paths keep out of
  int segment_length = 2;    // of one dash
  double thickness = 0.5;    // of one dash
  std::vector<int> margins;  // gap around a dash; one is drawn for each picture
  double marker_radius = 1.5;
  int seed_distance = 7;    // from the first dash of one path to that of the other
  double continuity = 1.0;  // larger: straighter
  int path_segments = 14, distractor_segments = 4, distractors = 5;
  int shortest = 0;  // above 0: each picture's paths have a random number of dashes from this one to path_segments
  double path_contrast = 1, distractor_contrast = 1;
  int antialias = 2;  // pictures are drawn this much finer, then shrunk
};
/// The published parameters for 32, 64 and 128 (Path-X), and for 16 an easier picture of ours, with two paths of four dashes and
/// one distractor, for trying settings without a GPU; ConfigError for another size.
PathfinderRules pathfinder_rules(int64_t size);
/// The same with paths of another number of dashes. As published, distractors have a third as many (rounded down, at least one),
/// and there are 20 / that many of them (35 / at size 128).
PathfinderRules with_segments(PathfinderRules rules, int segments);

struct Pixel {
  int y = 0, x = 0;
  bool operator==(const Pixel&) const = default;
};

/// A picture and what was drawn.
struct PathfinderPicture {
  std::vector<uint8_t> pixels;              // [size*size], row-major
  std::array<std::vector<Pixel>, 2> paths;  // first tip, then the far end of each later dash
  std::vector<std::vector<Pixel>> shorter;  // the distractors that found room
  std::array<int, 2> marked{};              // the path at whose first tip, and at whose last tip, there is a disc
  int margin = 0;
};

/// Draws pictures by one set of rules; the constructor prepares every dash, so one object serves many pictures and threads.
class PathfinderArtist {
 public:
  explicit PathfinderArtist(const PathfinderRules& rules);
  ~PathfinderArtist();
  PathfinderArtist(const PathfinderArtist&) = delete;
  PathfinderArtist& operator=(const PathfinderArtist&) = delete;
  /// Picture number `index` of a seed with this label (0, 1).
  PathfinderPicture draw(uint64_t seed, uint64_t index, int label) const;
  const PathfinderRules& rules() const { return rules_; }

 private:
  struct Tools;  // dashes and discs of one margin
  class Canvas;
  PathfinderRules rules_;
  std::vector<Tools> tools_;  // one per margin
};

struct PathfinderOptions {
  int64_t size = 32;
  uint64_t seed = 0;
  int64_t train = 160000, val = 20000, test = 20000;
  int64_t segments = 0;  // dashes of a path; 0: as the size has them
  int64_t shortest = 0;  // above 0: training pictures alone have paths of a random length from this one to the full
};

/// Writes a prepared folder: tokens u8 [size*size] (the grey value is the token), labels u8, as many 0 as 1 in each split (one more
/// 0 if the count is odd), no picture twice. The result depends on the options alone; test is drawn first, then val, then train, so
/// that `shortest` leaves test and val as they are without it.
void generate_pathfinder(const PathfinderOptions& options, const std::string& out_dir);

/// Imports the pictures of one level of the Long Range Arena release: DIR/metadata/*.npy (lines of text: folder, file, number,
/// label, ...) and the PNG files they name. Splits 80/10/10 % in that order. DataError naming the file or line for what is missing,
/// truncated, not a grey PNG of the one size, listed or shown twice, or labelled other than 0 and 1. One empty file, which the
/// release has, is left out.
void import_pathfinder(const std::string& source_dir, const std::string& out_dir);

}  // namespace flare
