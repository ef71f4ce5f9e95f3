#include "datasets/pde/navier_stokes_gen.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <vector>

#include "core/job.h"
#include "core/parallel.h"
#include "datasets/pde/batched_vorticity.h"
#include "datasets/pde/field_set.h"
#include "datasets/pde/vorticity.h"
#include "datasets/registry.h"

namespace flare {
namespace {

constexpr uint64_t kStream = uint64_t{0x4e53} << 48;  // keeps these random numbers apart from other generators'
constexpr int64_t kStepsBetweenLooks = 20, kStepsBetweenLooksOnGpu = 100;
constexpr int64_t kPointsOnGpu = 1 << 19;

void check_options(const NavierStokesOptions& o) {
  check_counts("navier-stokes-gen", o);
  check<ConfigError>(o.resolution >= 8 && o.resolution <= 2048 && o.resolution % 2 == 0, "navier-stokes-gen: resolution ",
                     o.resolution, " is not an even number from 8 to 2048");
  check<ConfigError>(o.stride >= 1 && o.resolution % o.stride == 0 && o.resolution / o.stride >= 2, "navier-stokes-gen: stride ",
                     o.stride, " does not divide the ", o.resolution, " points of a period into 2 or more");
  check<ConfigError>(o.steps >= 1, "navier-stokes-gen: steps ", o.steps, " must be at least 1");
  check<ConfigError>(o.times >= 2 && o.times % 2 == 0, "navier-stokes-gen: times ", o.times,
                     " must be even, half of them are input");
  check<ConfigError>(o.reynolds >= 1, "navier-stokes-gen: reynolds ", o.reynolds, " must be at least 1");
  check<ConfigError>(o.batch >= 0 && o.batch <= 65535, "navier-stokes-gen: batch ", o.batch, " is not 0 to 65535");
}

struct Place {
  int64_t split, index;
};
/// Called with the number of steps that come next, before them; says by throwing that the work is to stop.
using Look = std::function<void(int64_t)>;
/// Called with a place's record t [side,side], in order of t, for several places at a time.
using Keep = std::function<void(const Place&, int64_t t, const double* record)>;

Rng rng_of(const NavierStokesOptions& o, const Place& place) {
  return Rng(o.seed, kStream + (static_cast<uint64_t>(place.split) << 40) + static_cast<uint64_t>(place.index));
}

void solve_on_cpu(const NavierStokesOptions& o, const std::vector<Place>& places, const Look& look, const Keep& keep) {
  const int64_t side = o.resolution / o.stride;
  parallel_for(static_cast<int64_t>(places.size()), 1, [&](int64_t begin, int64_t end) {
    std::vector<double> record(static_cast<size_t>(side * side));
    for (int64_t p = begin; p < end; ++p) {
      const Place& place = places[static_cast<size_t>(p)];
      Rng rng = rng_of(o, place);
      VorticitySolver solver(o.resolution, 1 / static_cast<double>(o.reynolds), 1 / static_cast<double>(o.steps));
      solver.draw(rng);
      for (int64_t t = 0; t < o.times; ++t) {
        for (int64_t s = 0; s < o.steps; ++s) {
          if (s % kStepsBetweenLooks == 0) look(std::min(kStepsBetweenLooks, o.steps - s));
          solver.step();
        }
        const Tensor w = solver.vorticity();
        for (int64_t i = 0; i < side * side; ++i)
          record[static_cast<size_t>(i)] = w.data<double>()[i / side * o.stride * o.resolution + i % side * o.stride];
        keep(place, t, record.data());
      }
    }
  });
}

/// The batch is as large however few places are left: how cuFFT adds may depend on it, and a sample must not depend on the others.
int64_t batch_of(const NavierStokesOptions& o) {
  return o.batch > 0 ? o.batch : std::max<int64_t>(kPointsOnGpu / (o.resolution * o.resolution), 1);
}

void solve_on_gpu(const NavierStokesOptions& o, const std::vector<Place>& places, const Look& look, const Keep& keep) {
  const int64_t points = (o.resolution / o.stride) * (o.resolution / o.stride), batch = batch_of(o),
                n_places = static_cast<int64_t>(places.size());
  BatchedVorticity flows(o.resolution, batch, 1 / static_cast<double>(o.reynolds), 1 / static_cast<double>(o.steps));
  for (int64_t first = 0; first < n_places; first += batch) {
    const int64_t count = std::min(batch, n_places - first);
    std::vector<Rng> rngs;
    for (int64_t i = 0; i < count; ++i) rngs.push_back(rng_of(o, places[static_cast<size_t>(first + i)]));
    flows.draw(rngs);
    for (int64_t t = 0; t < o.times; ++t) {
      for (int64_t s = 0; s < o.steps; s += kStepsBetweenLooksOnGpu) {
        const int64_t n_steps = std::min(kStepsBetweenLooksOnGpu, o.steps - s);
        look(count * n_steps);
        flows.step(n_steps);
      }
      const Tensor w = flows.vorticity(o.stride);
      parallel_for(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) keep(places[static_cast<size_t>(first + i)], t, w.data<double>() + i * points);
      });
    }
  }
}

void solve(const NavierStokesOptions& o, const std::vector<Place>& places, const Look& look, const Keep& keep) {
  const int64_t points = (o.resolution / o.stride) * (o.resolution / o.stride);
  const auto check_and_keep = [&](const Place& place, int64_t t, const double* record) {
    // The force alone adds at most 0.15 a unit of time, and the initial field stays below 2.
    check<NumericError>(std::all_of(record, record + points, [](double w) { return std::abs(w) < 100; }),
                        "navier-stokes-gen: sample ", place.index, " has grown without bound at t = ", t + 1,
                        "; raise the option steps above ", o.steps);
    keep(place, t, record);
  };
  o.device == Device::cuda ? solve_on_gpu(o, places, look, check_and_keep) : solve_on_cpu(o, places, look, check_and_keep);
}

}  // namespace

Tensor make_navier_stokes_sample(const NavierStokesOptions& options, int64_t split, int64_t index) {
  check_options(options);
  const int64_t side = options.resolution / options.stride;
  const Tensor sample = Tensor::empty({options.times, side, side}, DType::f64);
  const auto keep = [&](const Place&, int64_t t, const double* record) {
    std::copy_n(record, side * side, sample.data<double>() + t * side * side);
  };
  solve(
      options, {{split, index}}, [](int64_t) {}, keep);
  return sample;
}

void generate_navier_stokes(const NavierStokesOptions& options, const std::string& out_dir) {
  check_options(options);
  const NavierStokesOptions& o = options;
  const int64_t side = o.resolution / o.stride, n_points = side * side, half = o.times / 2;
  DatasetInfo info;
  info.name = "navier-stokes-gen";
  info.grid = {side, side};
  info.coordinates = 2;
  info.times = o.times - half;
  const std::string where = o.device == Device::cuda ? cat(current_gpu(), ", ", batch_of(o), " samples at once") : "the CPU";
  info.source = cat("generated by flare on ", where, ", seed ", o.seed, ": viscosity 1/", o.reynolds, ", ", o.resolution, " x ",
                    o.resolution, " points, every ", o.stride, ". kept, ", o.steps, " steps a unit of time; x = (x, y, t = 1 to ",
                    half, "), y = the next ", half, "; not the published Navier-Stokes files");
  info.licence = "generated; no licence applies";
  info.citation =
      "the problem: Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, arXiv 2010.08895";
  { const PreparedWriter early(out_dir, info); }  // so that a wrong folder shows before the work is done

  const Tensor points = Tensor::empty({n_points, 2}, DType::f32);  // a period: its last point is not at 1
  for (int64_t p = 0; p < n_points; ++p) {
    points.data<float>()[2 * p] = static_cast<float>(static_cast<double>(p / side) / static_cast<double>(side));
    points.data<float>()[2 * p + 1] = static_cast<float>(static_cast<double>(p % side) / static_cast<double>(side));
  }
  std::vector<FieldSplit> splits;
  std::vector<Place> places;
  std::array<size_t, 3> slot_of{};
  const std::array<std::pair<const char*, int64_t>, 3> counts = {{{"train", o.train}, {"val", o.val}, {"test", o.test}}};
  for (size_t s = 0; s < counts.size(); ++s) {
    const auto [name, count] = counts[s];
    if (count == 0) continue;
    slot_of[s] = splits.size();
    splits.push_back({name, Tensor::empty({count, n_points, 2 + half}, DType::f32),
                      Tensor::empty({count, n_points, o.times - half}, DType::f32)});
    fill_points(points, splits.back().x);
    for (int64_t i = 0; i < count; ++i) places.push_back({static_cast<int64_t>(s), i});
  }
  {
    Job job(info.name, static_cast<int64_t>(places.size()) * o.times * o.steps, "steps");
    const auto look = [&](int64_t n_steps) {
      job.check_stop();
      job.advance(n_steps);
    };
    solve(o, places, look, [&](const Place& place, int64_t t, const double* record) {
      const FieldSplit& split = splits[slot_of[static_cast<size_t>(place.split)]];
      const bool is_input = t < half;
      const int64_t width = is_input ? 2 + half : o.times - half, channel = is_input ? 2 + t : t - half;
      float* const to = (is_input ? split.x : split.y).data<float>() + place.index * n_points * width + channel;
      for (int64_t p = 0; p < n_points; ++p) to[p * width] = static_cast<float>(record[p]);
    });
  }
  write_field_set(out_dir, info, splits);
}

static DatasetEntry navier_stokes_gen_entry() {
  DatasetEntry e;
  e.name = "navier-stokes-gen";
  e.kind = "field_regression";
  e.description = "Vorticity at viscosity 1e-5, solved on 128 x 128 points, kept at 64 x 64, ten steps to the next ten";
  e.licence = "generated data: none";
  e.citation = "Z. Li et al., arXiv 2010.08895";
  const NavierStokesOptions d;
  e.options = {{"resolution", std::to_string(d.resolution), "points a side of the grid that is solved on; even"},
               {"stride", std::to_string(d.stride), "every how many-th point is kept; divides resolution"},
               {"steps", std::to_string(d.steps), "time steps per unit of time"},
               {"times", std::to_string(d.times), "recorded times 1, 2, ...; the first half is input"},
               {"reynolds", std::to_string(d.reynolds), "1/viscosity"},
               {"batch", std::to_string(d.batch), "samples solved at once on a GPU; 0: by resolution"}};
  e.has_gpu_version = true;
  e.generate = [](const GenerateOptions& g, const std::string& out_dir) {
    NavierStokesOptions o;
    take_counts(g, o);
    o.resolution = extra_int(g, "resolution", o.resolution);
    o.stride = extra_int(g, "stride", o.stride);
    o.steps = extra_int(g, "steps", o.steps);
    o.times = extra_int(g, "times", o.times);
    o.reynolds = extra_int(g, "reynolds", o.reynolds);
    o.batch = extra_int(g, "batch", o.batch);
    o.device = parse_device(g.device);
    generate_navier_stokes(o, out_dir);
  };
  return e;
}
FLARE_REGISTER_DATASET(navier_stokes_gen_entry());

}  // namespace flare
