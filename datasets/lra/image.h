#pragma once
#include <cstdint>
#include <string>

namespace flare {

/// Imports CIFAR-10 as grey pictures of 32x32, row by row, from DIR (or DIR/cifar-10-batches-bin): the binary version,
/// data_batch_1.bin ... data_batch_5.bin and test_batch.bin (records of a label byte and 1024 red, green and blue bytes), or
/// cifar10_gray.npz (train_x u8 [n,1024], train_y, test_x, test_y). Grey as TensorFlow's rgb_to_grayscale gives it on 8-bit
/// pictures. Splits as in Long Range Arena: the first 90 % of train, the last 10 % as val, test. Labels u8. Tokens: field tokens u8
/// [1024], the grey value is the token. Floats: field x u8 [1024,1], with mean and deviation of train for its normalisation.
/// `per_batch`: pictures a file, of which a tenth in each class over train and over test. DataError for missing files (all are
/// listed), another size, a label above 9, unequal classes, equal files.
void import_cifar(const std::string& source_dir, const std::string& out_dir, bool as_floats, int64_t per_batch = 10000);

/// floor((2989 R + 5870 G + 1140 B) / 10000 * 255.5 / 255), exact.
constexpr uint8_t grey_of(int red, int green, int blue) {
  return static_cast<uint8_t>(int64_t{2989 * red + 5870 * green + 1140 * blue} * 2555 / (10000 * int64_t{2550}));
}

}  // namespace flare
