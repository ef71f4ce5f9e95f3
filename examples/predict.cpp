/// Runs a trained model on the rows of a .npy file.   ./predict <run folder> <input.npy> <output.npy>
#include <algorithm>
#include <cstdio>

#include <flare/core/npy.h>
#include <flare/tools/train/predictor.h>

using namespace flare;

int main(int argc, char** argv) try {
  if (argc != 4) {
    std::fprintf(stderr, "usage: predict <run folder> <input.npy> <output.npy>\n");
    return 2;
  }
  Predictor predictor(argv[1]);                    // recipe and best weights of the run, on the GPU if there is one
  const Tensor input = read_npy(argv[2]);          // points [n,N,channels], or tokens [n,N]
  const Tensor output = predictor.predict(input);  // fields [n,N,channels], or logits [n,classes]; f32 on the CPU
  write_npy(argv[3], output);

  const int64_t n = output.size(0), per_row = output.numel() / n;
  const float* values = output.data<float>();
  for (int64_t i = 0; i < n; ++i) {
    const auto [low, high] = std::minmax_element(values + i * per_row, values + (i + 1) * per_row);
    std::printf("row %ld: %ld values from %g to %g\n", static_cast<long>(i), static_cast<long>(per_row), *low, *high);
  }
  return 0;
} catch (const Error& error) {  // every failure of flare: one line, and the exit code that the program flare ends with
  std::fprintf(stderr, "predict: %s\n", error.what());
  return error.exit_code();
}
