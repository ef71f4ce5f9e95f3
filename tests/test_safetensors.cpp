// safetensors: round trips, the exact bytes of the reference layout, hostile files, random damage.
#include "tests/file_fixtures.h"

TEST_CASE("safetensors: round trips of every dtype, scalars and empty tensors included") {
  const TemporaryFolder folder;
  const std::string path = folder / "m.safetensors";
  std::vector<NamedTensor> tensors;
  for (DType dtype : kDTypes) {
    for (const Shape& shape : kShapes)
      tensors.push_back({cat(name_of(dtype), ".é\"\n", shape), sample(shape, dtype, tensors.size())});
  }
  const std::map<std::string, std::string> metadata = {{"config", "{\"a\": [1, 2]}\n"}, {"", "ü"}};
  write_safetensors(path, tensors, metadata);
  const SafeTensors read = read_safetensors(path);
  CHECK(read.metadata == metadata);
  CHECK(read.tensors.size() == tensors.size());
  for (const NamedTensor& t : tensors) {
    REQUIRE(read.find(t.name) != nullptr);
    CHECK(same(*read.find(t.name), t.value));
  }
  CHECK(read.find("absent") == nullptr);
  const std::string bytes = read_file(path);
  std::reverse(tensors.begin(), tensors.end());
  write_safetensors(path, tensors, metadata);
  CHECK((read_file(path) == bytes));  // whatever the order of the list

  write_safetensors(path, {});
  CHECK(read_file(path) == safetensors_file("{}      ", ""));
  CHECK(read_safetensors(path).tensors.empty());
}

TEST_CASE("safetensors: the exact bytes of the reference writer's layout") {
  const TemporaryFolder folder;
  const Tensor matrix = Tensor::from<float>({1, 2, 3, 4}, {2, 2});
  write_safetensors(folder / "m",
                    {{"b", Tensor::from<uint8_t>({7}, {1})},
                     {"z", matrix.view({2, 2}, {1, 2})},
                     {"a", Tensor::from<float>({9}, {})},
                     {"i", Tensor::from<int64_t>({-1}, {1})}},
                    {{"k", "v"}});
  std::string header =
      R"({"__metadata__":{"k":"v"},"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[8,12]},"z":{"dtype":"F32","shape":[2,2],"data_offsets":[12,28]},)"
      R"("b":{"dtype":"U8","shape":[1],"data_offsets":[28,29]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  CHECK(read_file(folder / "m") == safetensors_file(header, raw<int64_t>({-1}) + raw<float>({9, 1, 3, 2, 4}) + raw<uint8_t>({7})));
  data_error([&] { write_safetensors(folder / "n", {{"a", matrix}, {"b", matrix}, {"a", matrix}}); }, "two tensors named \"a\"");
  data_error([&] { write_safetensors(folder / "n", {{"a", Tensor()}}); }, "undefined");
  data_error([&] { write_safetensors(folder / "n", {{"__metadata__", matrix}}); }, "cannot be named");
  data_error([&] { write_safetensors(folder / "n", {{"\xff", matrix}}); }, "not UTF-8");
  CHECK(folder.entries() == 1);
}

TEST_CASE("safetensors: foreign files: unaligned data, other dtypes, any order of keys") {
  const std::string header =
      R"({"w":{"data_offsets":[1,9],"shape":[2],"dtype":"F32"}, "flag":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},)"
      R"("h":{"dtype":"F16","shape":[2],"data_offsets":[9,13]},"s":{"dtype":"I16","shape":[1],"data_offsets":[13,15]},)"
      R"("e":{"dtype":"F64","shape":[3,0],"data_offsets":[13,13]},"c":{"dtype":"I8","shape":[1],"data_offsets":[15,16]}})";
  for (size_t padding = 0; padding < 8; ++padding) {
    const SafeTensors read = safetensors_of(safetensors_file(
        header + std::string(padding, ' '), std::string(1, '\x05') + raw<float>({1.5f, -2}) + raw<uint16_t>({0x3c00, 0xc000}) +
                                                raw<int16_t>({-300}) + raw<int8_t>({-7})));
    CHECK(read.tensors.size() == 6);
    CHECK(same(*read.find("w"), Tensor::from<float>({1.5f, -2}, {2})));
    CHECK(same(*read.find("flag"), Tensor::from<uint8_t>({1}, {1})));
    CHECK(same(*read.find("h"), Tensor::from<float>({1, -2}, {2})));
    CHECK(same(*read.find("s"), Tensor::from<int32_t>({-300}, {1})));
    CHECK(same(*read.find("c"), Tensor::from<int32_t>({-7}, {1})));
    CHECK(read.find("e")->shape() == Shape{3, 0});
  }
}

TEST_CASE("safetensors: hostile and damaged files are refused") {
  const std::string eight(8, '\1');
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const auto two = [](const std::string& offsets_a, const std::string& offsets_b) {
    return R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)" + offsets_a +
           R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":)" + offsets_b + "}}";
  };
  CHECK(safetensors_of(safetensors_file(one("F32", "[2]", "[0,8]"), eight)).tensors.size() == 1);
  CHECK(safetensors_of(safetensors_file(two("[4,8]", "[0,4]"), eight)).tensors.size() == 2);
  struct Case {
    std::string file, part;
  };
  std::vector<Case> cases = {
      {"", "has only 0 bytes"},
      {"1234567", "has only 7 bytes"},
      {little_endian(100'000'001, 8) + eight, "100000001 bytes, more than"},
      {little_endian(~uint64_t{0}, 8) + "{}", "more than"},
      {little_endian(~uint64_t{0} - 7, 8) + "{}", "more than"},
      {little_endian(3, 8) + "{}", "is truncated: the header has 3 bytes"},
      {little_endian(0, 8), "does not begin with '{'"},
  };
  struct HeaderCase {
    std::string header, part;
  };
  const std::vector<HeaderCase> headers = {
      {" {}", "does not begin with '{'"},
      {"[]", "does not begin with '{'"},
      {"{", "not valid JSON"},
      {"{}}", "not valid JSON"},
      {"{} x", "not valid JSON"},
      {std::string("{}\0{}", 5), "NUL byte"},
      {"{\"\xff\":{}}", "not valid JSON"},
      {"{\"a\":1}", "a number in the wrong place"},
      {"{\"a\":null}", "null in the wrong place"},
      {"{\"a\":{}}", "lacks one of"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", "lacks one of"},
      {one("F32", "[2]", "[0,8]").insert(2, 100'000, 'n'), "\"nnnn"},
      {one("F8_E4M3", "[8]", "[0,8]"), "dtype \"F8_E4M3\", which is not supported"},
      {one("f32\\n", "[2]", "[0,8]"), "not supported"},
      {one("F32", "[3]", "[0,8]"), "shape [3] of F32 needs 12 bytes"},
      {one("F32", "[]", "[0,8]"), "needs 4 bytes"},
      {one("F32", "[2]", "[0,4]"), "needs 8 bytes"},
      {one("F32", "[0]", "[0,8]"), "needs 0 bytes"},
      {one("F32", "[2]", "[8,0]"), "run backwards"},
      {one("F32", "[1]", "[4,8]"), "a hole after byte 0"},
      {one("F32", "[1]", "[0,4]"), "4 bytes after the last tensor"},
      {one("F32", "[4]", "[0,16]"), "is truncated: the tensors need 16"},
      {one("F32", "[2]", "[0]"), "1 data_offsets"},
      {one("F32", "[2]", "[0,8,8]"), "more than 2 data_offsets"},
      {one("F32", "[2]", "[-8,0]"), "negative"},
      {one("F32", "[2]", "[0,8.0]"), "no integer"},
      {one("F32", "[2]", "[0,18446744073709551615]"), "overflows"},
      {one("F32", "[2]", "[0,18446744073709551624]"), "no integer"},
      {one("F32", "[2]", "[0,1e999]"), "not valid JSON"},
      {one("F32", "[4294967296,4294967296]", "[0,8]"), "overflows"},
      {one("F32", "[4611686018427387904,4]", "[0,8]"), "overflows"},
      {one("U8", "[4611686018427387904,4611686018427387904,0]", "[0,0]"), "overflows"},
      {one("F32", "[-2]", "[0,8]"), "negative"},
      {one("F32", "[[2]]", "[0,8]"), "an array in the wrong place"},
      {one("F32", "{\"a\":2}", "[0,8]"), "an object in the wrong place"},
      {one("F32", "\"2\"", "[0,8]"), "a string in the wrong place"},
      {one("F32", "[1,1,1,1,1,1,2]", "[0,8]"), "more than 6 axes"},
      {two("[0,4]", "[0,4]"), "overlap"},
      {two("[0,4]", "[2,6]"), "overlap"},
      {two("[0,4]", "[5,9]"), "a hole after byte 4"},
      {R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "\"w\" appears twice"},
      {R"({"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "the field \"dtype\" twice"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", "unknown field \"x\""},
      {R"({"__metadata__":{"a":1}})", "string to string"},
      {R"({"__metadata__":{"a":{"b":"c"}}})", "string to string"},
      {R"({"__metadata__":[]})", "string to string"},
      {R"({"__metadata__":null})", "string to string"},
      {R"({"__metadata__":{"a":"1","a":"2"}})", "metadata key \"a\" twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", "twice"},
      {"{\"a\":" + std::string(5'000'000, '['), "an array in the wrong place"},
      {[] {
         std::string deep;
         for (int i = 0; i < 500'000; ++i) deep += "{\"a\":";
         return deep;
       }(),
       "the unknown field \"a\""},
  };
  for (const HeaderCase& c : headers) cases.push_back({safetensors_file(c.header, eight), c.part});
  for (const Case& c : cases) {
    if (c.part == "\"nnnn") {  // legal, but a message about it must stay short
      const std::string message = data_error([&] { safetensors_of(c.file + "x"); }, "1 bytes after the last tensor");
      CHECK(message.size() < 300);
      continue;
    }
    const std::string message = data_error([&] { safetensors_of(c.file); }, c.part);
    CHECK(message.starts_with("model.safetensors: "));
    CHECK(message.size() < 400);
  }
}

TEST_CASE("random damage to headers is a DataError or harmless") {
  const std::string npy = npy_file("<f4", false, "(2, 3)", std::string(24, '\2'));
  const std::string tensors = safetensors_file(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                               R"("b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})",
                                               std::string(12, '\3'));
  const std::string alphabet = "{}[]()\",:'0123456789-+.eTF<>|fiub \n\\\xff" + std::string(1, '\0');
  Rng rng(2024);
  int n_refused = 0, n_accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    const bool is_npy = round % 2 == 0;
    std::string file = is_npy ? npy : tensors;
    for (uint64_t edits = 1 + rng.below(4); edits > 0 && !file.empty(); --edits) {
      const size_t at = rng.below(file.size());
      const char c = alphabet[rng.below(alphabet.size())];
      switch (rng.below(6)) {
        case 0: file[at] = static_cast<char>(rng.below(256)); break;
        case 1: file[at] = static_cast<char>(file[at] ^ (1 << rng.below(8))); break;
        case 2: file[at] = c; break;
        case 3: file.insert(at, 1, c); break;
        case 4: file.erase(at, 1 + rng.below(3)); break;
        default: file.insert(at, file.substr(rng.below(file.size()), rng.below(40))); break;
      }
    }
    try {
      if (is_npy)
        npy_of(file);
      else
        safetensors_of(file);
      ++n_accepted;
    } catch (const DataError& e) {
      ++n_refused;
      CHECK(std::string_view(e.what()).find('\n') == std::string_view::npos);
    }  // anything else ends the test
  }
  CHECK(n_refused > 10'000);
  CHECK(n_accepted > 100);
}
