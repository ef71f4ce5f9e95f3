/// CIFAR-10 as sequences of grey pixels: the binary batches, the grey array, tokens and floats, and what is refused.
#include "core/npy.h"
#include "datasets/loader.h"
#include "datasets/lra/image.h"
#include "datasets/registry.h"
#include "tests/lra_fixtures.h"

namespace {

constexpr int kPerBatch = 20;

uint16_t low(size_t v) { return static_cast<uint16_t>(v); }
/// A zip archive of stored members, as numpy.savez writes it (the CRC-32 by its definition).
std::string stored_zip(const std::vector<std::pair<std::string, std::string>>& members) {
  const auto crc_of = [](const std::string& data) {
    uint32_t crc = ~0u;
    for (const char c : data) {
      crc ^= static_cast<uint8_t>(c);
      for (int k = 0; k < 8; ++k) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
  };
  std::string files, directory;
  for (const auto& [name, data] : members) {
    const std::string sizes = little_endian(crc_of(data), 4) + little_endian(data.size(), 4) + little_endian(data.size(), 4);
    const std::string common = little_endian(20, 2) + little_endian(0, 2) + little_endian(0, 2) + little_endian(0, 4) + sizes +
                               little_endian(low(name.size()), 2) + little_endian(0, 2);
    directory += "PK\x01\x02" + little_endian(20, 2) + common + little_endian(0, 2) + little_endian(0, 2) + little_endian(0, 2) +
                 little_endian(0, 4) + little_endian(files.size(), 4) + name;
    files += "PK\x03\x04" + common + name + data;
  }
  return files + directory + "PK\x05\x06" + little_endian(0, 4) + little_endian(members.size(), 2) +
         little_endian(members.size(), 2) + little_endian(directory.size(), 4) + little_endian(files.size(), 4) +
         little_endian(0, 2);
}

}  // namespace

TEST_CASE("image: grey values are TensorFlow's") {
  CHECK(grey_of(0, 0, 0) == 0);
  CHECK(grey_of(255, 255, 255) == 255);
  CHECK(grey_of(255, 0, 0) == 76);   // 0.2989 * 255.5 = 76.37
  CHECK(grey_of(0, 255, 0) == 149);  // 0.5870 * 255.5 = 149.98
  CHECK(grey_of(0, 0, 255) == 29);   // 0.1140 * 255.5 = 29.13
  for (int v = 0; v < 256; ++v) CHECK(std::abs(grey_of(v, v, v) - v) <= 1);
}

TEST_CASE("image: binary batches become tokens, or floats with their normalisation") {
  const TemporaryFolder tmp;
  write_cifar(tmp / "in/cifar-10-batches-bin", kPerBatch);
  import_cifar(tmp / "in", tmp / "out", false, kPerBatch);
  const PreparedFolder folder(tmp / "out");
  CHECK(folder.info().vocabulary == 256);
  CHECK(folder.info().max_length == 1024);
  CHECK(folder.count("train") == 90);
  CHECK(folder.count("val") == 10);
  CHECK(folder.count("test") == 20);
  const std::string batch = cifar_batch(kPerBatch, 5);
  const Column& val = folder.column("val", "tokens");  // the last ten records of data_batch_5
  for (const int64_t i : {0, 9})
    for (const int64_t p : {0, 31, 500, 1023}) {
      const auto byte = [&](int64_t channel) {
        return static_cast<uint8_t>(batch[static_cast<size_t>((i + 10) * 3073 + 1 + channel * 1024 + p)]);
      };
      CHECK(val.integer(val.begin(i) + p) == grey_of(byte(0), byte(1), byte(2)));
      CHECK(folder.column("val", "labels").integer(i) == i);
    }

  import_cifar(tmp / "in", tmp / "floats", true, kPerBatch);
  const PreparedFolder floats(tmp / "floats");
  CHECK(floats.info().name == "image-floats");
  CHECK(floats.info().vocabulary == 0);
  const Normalisation n = floats.info().normalisation.at("x");
  Loader loader(floats, "train", {.batch_size = 90, .shuffle = false});
  const Batch all = loader.next();
  REQUIRE(all.x.shape() == Shape{90, 1024, 1});
  double mean = 0, square = 0;
  for (int64_t i = 0; i < all.x.numel(); ++i) mean += all.x.item(i) / static_cast<double>(all.x.numel());
  for (int64_t i = 0; i < all.x.numel(); ++i) square += std::pow(all.x.item(i) - mean, 2) / static_cast<double>(all.x.numel());
  CHECK(n.mean.at(0) == doctest::Approx(mean));
  CHECK(n.std.at(0) == doctest::Approx(std::sqrt(square)));
  CHECK(all.x.item(0) == folder.column("train", "tokens").integer(0));
  CHECK(!all.mask);
}

TEST_CASE("image: the grey array gives the same folder as the batches") {
  const TemporaryFolder tmp;
  write_cifar(tmp / "batches", kPerBatch);
  import_cifar(tmp / "batches", tmp / "a", false, kPerBatch);
  std::vector<std::pair<std::string, std::string>> members;
  const PreparedFolder a(tmp / "a");
  for (const auto& [name, splits] :
       {std::pair("train", std::vector<std::string>{"train", "val"}), std::pair("test", std::vector<std::string>{"test"})}) {
    std::string x, y;
    for (const std::string& split : splits) {
      const Column &tokens = a.column(split, "tokens"), &labels = a.column(split, "labels");
      x.append(tokens.bytes, static_cast<size_t>(tokens.count * 1024));
      y.append(labels.bytes, static_cast<size_t>(labels.count));
    }
    members.emplace_back(cat(name, "_x.npy"), npy_file("|u1", false, cat("(", y.size(), ", 1024)"), x));
    members.emplace_back(cat(name, "_y.npy"), npy_file("|u1", false, cat("(", y.size(), ",)"), y));
  }
  write_bytes(tmp / "array/cifar10_gray.npz", stored_zip(members));
  import_cifar(tmp / "array", tmp / "b", false, kPerBatch);
  for (const char* file : {"train.tokens.npy", "val.tokens.npy", "test.tokens.npy", "train.labels.npy", "test.labels.npy"})
    CHECK(sha256_of_file(tmp / ("a/" + std::string(file))) == sha256_of_file(tmp / ("b/" + std::string(file))));

  CHECK_SAYS(3, "train_x is u8 [100,1024] and train_y u8 [100], expected u8 [50000,1024]",
             prepare_dataset("image", tmp / "array", tmp / "c"));
  members[1].second.back() = 12;
  write_bytes(tmp / "array/cifar10_gray.npz", stored_zip(members));
  CHECK_SAYS(3, "mislabelled: picture 99 has the label 12", import_cifar(tmp / "array", tmp / "c", false, kPerBatch));
  fs::resize_file(tmp / "array/cifar10_gray.npz", 50000);
  CHECK_SAYS(3, "cifar10_gray.npz", import_cifar(tmp / "array", tmp / "c", false, kPerBatch));
  fs::rename(tmp / "array/cifar10_gray.npz", tmp / "array/cifar10_gray.npz.xz");
  CHECK_SAYS(3, "unpack cifar10_gray.npz.xz with: xz -dk", import_cifar(tmp / "array", tmp / "c", false, kPerBatch));
  CHECK_FALSE(fs::exists(tmp / "c"));
}

TEST_CASE("image: missing, truncated, oversized, mislabelled and duplicated batches are refused") {
  const TemporaryFolder tmp;
  write_cifar(tmp / "in", kPerBatch);
  const std::string second = tmp / "in/data_batch_2.bin", good = read_file(second);
  const auto import_with = [&](const std::string& batch) {
    write_bytes(second, batch);
    import_cifar(tmp / "in", tmp / "out", false, kPerBatch);
  };
  CHECK_SAYS(3, "data_batch_2.bin: truncated: has 61459 bytes, expected 61460 (20 records of 3073)", import_with(good.substr(1)));
  CHECK_SAYS(3, "data_batch_2.bin: oversized: has 61461 bytes", import_with(good + "x"));
  CHECK_SAYS(3, "data_batch_2.bin: duplicated: it equals", import_with(cifar_batch(kPerBatch, 1)));
  std::string wrong = good;
  wrong[3073] = 10;
  CHECK_SAYS(3, "data_batch_2.bin: mislabelled: picture 1 has the label 10", import_with(wrong));
  wrong[3073] = 2;
  CHECK_SAYS(3, "mislabelled: train has 9 pictures of class 1, expected 10", import_with(wrong));
  CHECK_SAYS(3, "data_batch_1.bin: truncated: has 61460 bytes, expected 30730000",
             prepare_dataset("image", tmp / "in", tmp / "out"));
  fs::remove(second);
  fs::remove(tmp / "in/test_batch.bin");
  CHECK_SAYS(3, "not found: data_batch_2.bin, test_batch.bin (30730000 bytes each, from cifar-10-binary.tar.gz",
             prepare_dataset("image-floats", tmp / "in", tmp / "out"));
  CHECK_FALSE(fs::exists(tmp / "out"));
}
