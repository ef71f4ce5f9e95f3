// .npy: golden bytes, round trips, hostile files, arrays written row by row.
#include "tests/file_fixtures.h"

TEST_CASE("npy: golden bytes of every dtype, order and version") {
  const auto values = [](const Tensor& t) { return t.to_vector(); };
  using V = std::vector<double>;
  for (int version : {1, 2, 3}) {
    const Tensor t = npy_of(npy_file("<f4", false, "(2, 3)", raw<float>({1, 2, 3, 4, 5, 6.5f}), version));
    CHECK(t.dtype() == DType::f32);
    CHECK(t.shape() == Shape{2, 3});
    CHECK(values(t) == V{1, 2, 3, 4, 5, 6.5});
  }
  // Columns first in the file, rows first in memory.
  CHECK(values(npy_of(npy_file("<f8", true, "(2, 3)", raw<double>({1, 4, 2, 5, 3, 6})))) == V{1, 2, 3, 4, 5, 6});
  CHECK(values(npy_of(npy_file(">i4", true, "(2, 3)", raw<int32_t>({1, 4, 2, 5, 3, -6}, true)))) == V{1, 2, 3, 4, 5, -6});
  CHECK(values(npy_of(npy_file("|u1", true, "(2, 1, 2, 2)", raw<uint8_t>({0, 4, 2, 6, 1, 5, 3, 7})))) == V{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(values(npy_of(npy_file(">f4", false, "(2,)", raw<float>({1.5f, -2}, true)))) == V{1.5, -2});
  CHECK(values(npy_of(npy_file(">f8", false, "(1,)", raw<double>({1e300}, true)))) == V{1e300});
  CHECK(npy_of(npy_file(">i8", false, "(1,)", raw<int64_t>({-(int64_t{1} << 60) - 1}, true))).data<int64_t>()[0] ==
        -(int64_t{1} << 60) - 1);
  CHECK(npy_of(npy_file("<i8", false, "()", raw<int64_t>({-5}))).shape() == Shape{});
  CHECK(values(npy_of(npy_file("|b1", false, "(4,)", raw<uint8_t>({0, 1, 1, 2})))) == V{0, 1, 1, 1});
  CHECK(npy_of(npy_file("<f4", true, "(3, 0)", "")).shape() == Shape{3, 0});
  // 1, -2, 65504 (largest), 2^-24 (smallest), -0, infinity
  const std::initializer_list<uint16_t> halves = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x8000, 0x7c00};
  const V expected = {1, -2, 65504, 0x1p-24, -0.0, std::numeric_limits<double>::infinity()};
  for (bool big : {false, true}) {
    const Tensor t = npy_of(npy_file(big ? ">f2" : "<f2", false, "(6,)", raw(halves, big)));
    CHECK(t.dtype() == DType::f32);
    CHECK(values(t) == expected);
    CHECK(std::signbit(t.data<float>()[4]));
  }
  CHECK(std::isnan(half_to_float(0x7e00)));
  // Spelled otherwise, but the same dictionary: order of keys, quotes, spaces, Python 2 integers, no trailing comma.
  CHECK(npy_of(npy_file("{\"shape\":(2L , 1L),\"descr\":\"=f4\" ,'fortran_order':False}", raw<float>({1, 2}))).shape() ==
        Shape{2, 1});
}

TEST_CASE("npy: round trips, and the exact header numpy.save writes") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.npy";
  for (DType dtype : kDTypes) {
    for (const Shape& shape : kShapes) {
      CAPTURE(dtype);
      CAPTURE(shape);
      const Tensor t = sample(shape, dtype, 3);
      write_npy(path, t);
      CHECK(fs::file_size(path) % 64 == static_cast<size_t>(dtype == DType::bf16 ? 2 * t.bytes() : t.bytes()) % 64);
      const Tensor stored = dtype == DType::bf16 ? cast_to(t, DType::f32) : t;
      CHECK(same(read_npy(path), stored));
      const MappedNpy mapped(path);
      CHECK(mapped.shape() == shape);
      CHECK(mapped.dtype() == stored.dtype());
      CHECK((stored.numel() == 0 || std::memcmp(mapped.raw(), stored.raw(), static_cast<size_t>(stored.bytes())) == 0));
    }
  }
  const Tensor matrix = Tensor::from<int64_t>({1, 2, 3, 4, 5, 6}, {2, 3});
  write_npy(path, matrix.view({3, 2}, {1, 3}));  // transposed: packed on the way out
  CHECK(read_npy(path).to_vector() == std::vector<double>{1, 4, 2, 5, 3, 6});
  const std::string dict = "{'descr': '<i8', 'fortran_order': False, 'shape': (3, 2), }";
  CHECK(read_file(path).substr(0, 128) ==
        std::string("\x93NUMPY\x01\0\x76\0", 10) + dict + std::string(117 - dict.size(), ' ') + "\n");
  write_npy(path, Tensor::from<float>({1}, {1}));
  CHECK(read_file(path).find("'shape': (1,), }") != std::string::npos);
  data_error([&] { write_npy(path, Tensor()); }, "undefined");
}

TEST_CASE("npy: hostile and damaged files are refused") {
  const std::string f4 = raw<float>({1, 2});
  const std::string good = npy_file("<f4", false, "(2,)", f4);
  CHECK(npy_of(good).numel() == 2);
  struct Case {
    std::string file, part;
  };
  const std::vector<Case> cases = {
      {"", "is not a .npy file"},
      {"\x93NUMPY\x01", "is not a .npy file"},
      {"PK\x03\x04 some zip archive", "is not a .npy file"},
      {npy_file("<f4", false, "(2,)", f4, 4), "version 4.0 is unknown"},
      {good.substr(0, 30), "is truncated: the .npy header"},
      {std::string("\x93NUMPY\x02\0\xff\xff", 10), "truncated within"},
      {std::string("\x93NUMPY\x02\0\xff\xff\xff\xff", 12), "is truncated: the .npy header has 4294967295"},
      {good.substr(0, good.size() - 1), "needs 8 bytes of data, the file has 7"},
      {good + "x", "has 1 bytes after the data"},
      {npy_file("|O", false, "(2,)", f4), "Python objects"},
      {npy_file("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", f4), "structured"},
      {npy_file("<c8", false, "(1,)", f4), "\"<c8\" is not supported"},
      {npy_file("<U2", false, "(1,)", f4), "is not supported"},
      {npy_file("|f4", false, "(2,)", f4), "states no byte order"},
      {npy_file("", false, "(2,)", f4), "is not supported"},
      {npy_file("<f4\n", false, "(2,)", f4), "is not supported"},
      {npy_file("<f4", false, "(-2,)", f4), "extents >= 0"},
      {npy_file("<f4", false, "(2)", f4), "not a tuple"},
      {npy_file("<f4", false, "(1 2)", f4), "lacks a comma"},
      {npy_file("<f4", false, "(2.0,)", f4), "lacks a comma"},
      {npy_file("<f4", false, "(99999999999999999999,)", f4), "too large"},
      {npy_file("<f4", false, "(4294967296, 4294967296)", f4), "overflows"},
      {npy_file("<f4", false, "(2305843009213693952,)", f4), "overflows"},
      {npy_file("<f4", false, "(4611686018427387904, 4611686018427387904, 0)", ""), "overflows"},
      {npy_file("<f4", false, "(1000000000000,)", f4), "truncated"},
      {npy_file("<f4", false, "(1,1,1,1,1,1,2)", f4), "more than 6 axes"},
      {npy_file("{'descr': '<f4', 'shape': (2,)}", f4), "lacks one of"},
      {npy_file("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", f4), "twice"},
      {npy_file("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", f4), "True or False"},
      {npy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}", f4), "unknown key"},
      {npy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} import os", f4), "after the dictionary"},
      {npy_file("__import__('os')", f4), "should have '{'"},
      {npy_file("{'descr", f4), "string without end"},
      {npy_file("", f4), "should have '{'"},
      {npy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,", f4), "should have extents"},
      {npy_file(std::string(2'000'000, ' '), f4, 2), "more than 1000000"},
  };
  for (const Case& c : cases) {
    const std::string message = data_error([&] { npy_of(c.file); }, c.part);
    CHECK(message.starts_with("array.npy: "));
  }
}

TEST_CASE("npy: in-place use needs the layout of memory") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.npy";
  const auto mapping_of = [&](const std::string& file) {
    put(path, file);
    return [&path] { MappedNpy m(path); };
  };
  data_error(mapping_of(npy_file(">f4", false, "(1,)", raw<float>({1}))), "big-endian");
  data_error(mapping_of(npy_file("<f4", true, "(1, 1)", raw<float>({1}))), "Fortran order");
  data_error(mapping_of(npy_file("<f2", false, "(1,)", "ab")), "cannot be used in place");
  std::string dict = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}";
  while ((10 + dict.size()) % 8 != 1) dict += ' ';
  data_error(mapping_of(npy_file(dict, raw<double>({1}))), "not on a multiple of 8");
  CHECK(read_npy(path).item() == 1.0);  // copied instead
  // A 1-D array is the same in both orders.
  std::string flat = "{'descr': '<i4', 'fortran_order': True, 'shape': (2,)}";
  while ((10 + flat.size()) % 4 != 0) flat += ' ';
  put(path, npy_file(flat, raw<int32_t>({1, 2})));
  MappedNpy first(path), second;
  second = std::move(first);
  CHECK(second.data<int32_t>()[1] == 2);
  data_error([&] { second.data<float>(); }, "holds i32, not f32");
}

TEST_CASE("npy: an array written row by row") {
  const TemporaryFolder folder;
  NpyWriter flat(folder / "flat.npy", DType::i64);
  std::vector<double> expected;
  for (int64_t i = 0; i < 1000; ++i) {
    const std::vector<int64_t> piece(static_cast<size_t>(i % 7), i);
    flat.append<int64_t>(piece);
    expected.insert(expected.end(), piece.begin(), piece.end());
  }
  CHECK_FALSE(file_exists(folder / "flat.npy"));
  flat.commit();
  CHECK(read_npy(folder / "flat.npy").to_vector() == expected);
  CHECK(flat.rows() == static_cast<int64_t>(expected.size()));
  CHECK(MappedNpy(folder / "flat.npy").header().data_offset % 64 == 0);

  NpyWriter rows(folder / "rows.npy", DType::f32, {2, 2});
  const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8};
  rows.append<float>(values);
  data_error([&] { rows.append<float>(std::span(values).first(3)); }, "not whole rows of 4");
  data_error([&] { rows.append<double>(std::vector<double>(4)); }, "rows of f64");
  rows.commit();
  CHECK(same(read_npy(folder / "rows.npy"), Tensor::from(values, {2, 2, 2})));
  NpyWriter none(folder / "none.npy", DType::u8, {3});
  none.commit();
  CHECK(read_npy(folder / "none.npy").shape() == Shape{0, 3});
  { NpyWriter abandoned(folder / "abandoned.npy", DType::u8); }
  CHECK(folder.entries() == 3);
  data_error([&] { NpyWriter(folder / "bf16.npy", DType::bf16); }, "no bf16");
}
