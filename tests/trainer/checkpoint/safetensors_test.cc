#include "trainer/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/trainer/checkpoint/tensor_files.h"
#include "tests/trainer/data/scratch_files.h"

namespace starling::trainer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;
using testing::UnorderedElementsAre;

std::filesystem::path golden(std::string_view name) {
  return std::filesystem::path(std::getenv("STARLING_TEST_SOURCE_DIR")) / "tests/golden/safetensors" / name;
}

std::string refusal(std::string_view header, std::size_t data_bytes) {
  const auto read = parse_safetensors(safetensors_bytes(header, data_bytes));
  return read ? "accepted" : read.error().message;
}

std::vector<float> floats(const SafetensorsFile& file, std::string_view name) {
  const TensorView* tensor = file.find(name);
  if (tensor == nullptr) return {};
  std::vector<float> out(static_cast<std::size_t>(tensor->count()));
  const Status read = read_floats(*tensor, out);
  EXPECT_TRUE(read) << (read ? "" : read.error().message);
  return out;
}

TEST(Safetensors, ReadsWhatThePackageWrote) {
  const auto file = SafetensorsFile::open(golden("mixed.safetensors"));
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_THAT(file->metadata(), UnorderedElementsAre(Pair("format", "pt"), Pair("käse", "ja \"gut\"")));
  EXPECT_EQ(file->tensors().size(), 7u);
  EXPECT_THAT(floats(*file, "float32"), ElementsAre(0.0F, -0.0F, 1.5F, -3.4028234663852886e38F, 1e-45F, 3.14159274F));
  EXPECT_THAT(file->find("float32")->shape, ElementsAre(2, 3));
  EXPECT_THAT(floats(*file, "bfloat16"), ElementsAre(1.0F, -2.5F, 3.3895313892515355e38F, 9.1835496e-41F));
  EXPECT_THAT(floats(*file, "float16"),
              ElementsAre(1.0F, -2.0F, 65504.0F, 6.103515625e-05F, 5.9604644775390625e-08F, -0.333251953125F));
  EXPECT_THAT(floats(*file, "scalar"), ElementsAre(7.0F));
  EXPECT_THAT(file->find("scalar")->shape, ElementsAre());
  EXPECT_THAT(floats(*file, "empty"), ElementsAre());
  EXPECT_THAT(file->find("empty")->shape, ElementsAre(0, 4));
  EXPECT_EQ(file->find("int64")->dtype, "I64");
  std::vector<float> two(2);
  EXPECT_THAT(read_floats(*file->find("int64"), two).error().message,
              HasSubstr("expected weights of F32, BF16 or F16, got I64"));
  EXPECT_EQ(file->find("nobody"), nullptr);
}

// Made and judged by the package: whatever it refuses is refused here.
TEST(Safetensors, RefusesTheKnownAttacks) {
  const auto attacks = nlohmann::json::parse(read_text(golden("attacks.json")));
  ASSERT_GE(attacks.size(), 25u);
  int refused_there = 0;
  for (const auto& attack : attacks) {
    const auto bytes = from_hex(attack["bytes"].get<std::string>());
    ASSERT_TRUE(bytes);
    const auto read = parse_safetensors(*bytes);
    const std::string name = attack["name"];
    EXPECT_EQ(read.has_value(), attack["good"].get<bool>()) << name;
    if (!read) {
      EXPECT_THAT(read.error().message, HasSubstr(attack["message"].get<std::string>())) << name;
    }
    if (!attack["package_reads"].get<bool>()) {
      ++refused_there;
      EXPECT_FALSE(read) << name;
    }
  }
  EXPECT_GE(refused_there, 15);
}

TEST(Safetensors, SaysWhatIsWrong) {
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8), "accepted");
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 12),
              HasSubstr("4 bytes after the last tensor belong to none"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4),
              HasSubstr("tensor 'a': expected data_offsets inside of the 4 bytes of data, got [0, 8]"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", 8),
              HasSubstr("F32 of shape [3] needs 96 bits, data_offsets [0, 8] hold 8 bytes"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", 8),
              HasSubstr("unknown dtype 'F33'"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
              HasSubstr("the shape [4294967296, 4294967296] is too large"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[0,18446744073709551615],"data_offsets":[0,0]}})", 0),
              HasSubstr("is too large"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8),
              HasSubstr("begins at byte 4 of the data, expected 0: no tensor holds the bytes between"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                      R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
                      12),
              HasSubstr("tensor 'b' begins at byte 4 of the data, expected 8: it overlaps with the tensor before"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                      R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                      4),
              HasSubstr("'a': its name twice"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4),
              HasSubstr("tensor 'a': 'dtype' twice"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1]}})", 0), HasSubstr("got only dtype, shape"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 0),
              HasSubstr("expected two data_offsets, got 1"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,1,2]}})", 0),
              HasSubstr("expected two data_offsets, got more"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}})", 0),
              HasSubstr("tensor 'a': shape: expected whole numbers from 0 up, got -1"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})", 4), HasSubstr("got 1.0"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4), HasSubstr("got a list"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4),
              HasSubstr("dtype: expected a text, got 32"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":"1","data_offsets":[0,4]}})", 4),
              HasSubstr("shape: expected a list of numbers"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})", 4), HasSubstr("got 'x'"));
  EXPECT_THAT(refusal(R"({"a":7})", 0), HasSubstr("'a': expected an object, got 7"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"a":1}})", 0), HasSubstr("__metadata__: 'a': expected a text, got 1"));
  EXPECT_THAT(refusal(R"({"__metadata__":{"a":"1","a":"2"}})", 0), HasSubstr("'a': its key twice"));
  EXPECT_THAT(refusal(R"({"__metadata__":"a"})", 0), HasSubstr("expected an object, got the text 'a'"));
  EXPECT_THAT(refusal("[]", 0), HasSubstr("begins with '{', got '['"));
  EXPECT_THAT(refusal(" {}", 0), HasSubstr("begins with '{', got ' '"));
  EXPECT_THAT(refusal("", 0), HasSubstr("got none"));
  EXPECT_THAT(refusal("{} {}", 0), HasSubstr("the header is no JSON"));
  EXPECT_THAT(refusal("{\"\xff\":{}}", 0), HasSubstr("the header is no JSON"));
  EXPECT_THAT(refusal(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1), HasSubstr("needs 12 bits"));
  EXPECT_THAT(refusal("{}      ", 0), "accepted");
  std::string deep = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)";
  deep.append(1'000'000, '[');
  EXPECT_THAT(refusal(deep, 0), HasSubstr("got a list"));
  std::string many = R"({"a":{"dtype":"F32","shape":[1)";
  for (int i = 0; i < 40; ++i) many += ",1";
  EXPECT_THAT(refusal(many + R"(],"data_offsets":[0,4]}})", 4), HasSubstr("at most 32 dimensions"));
}

TEST(Safetensors, RefusesALengthThatTheFileDoesNotHave) {
  Bytes file = safetensors_bytes("{}", 0);
  EXPECT_THAT(parse_safetensors(ByteView(file).first(7)).error().message, HasSubstr("got 7 bytes in all"));
  EXPECT_THAT(parse_safetensors(ByteView(file).first(9)).error().message,
              HasSubstr("the header has 2 bytes, but only 1 follow"));
  for (const std::uint64_t length : {std::uint64_t{100'000'001}, ~std::uint64_t{0}, std::uint64_t{1} << 63}) {
    std::memcpy(file.data(), &length, sizeof length);
    EXPECT_THAT(parse_safetensors(file).error().message, HasSubstr("a header of at most 100000000 bytes"));
  }
}

TEST(Safetensors, SaysWhichFileAndWhichValue) {
  const ScratchFolder folder;
  EXPECT_EQ(SafetensorsFile::open(folder.path("none")).error().code, ErrorCode::not_found);
  folder.write("bad", "12345678");
  EXPECT_THAT(SafetensorsFile::open(folder.path("bad")).error().message, HasSubstr(folder.path("bad") + ": "));
  Bytes bytes = safetensors_bytes(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}})", 12);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(bytes.data() + bytes.size() - 4, &nan, sizeof nan);
  const auto table = parse_safetensors(bytes);
  ASSERT_TRUE(table);
  std::vector<float> out(3);
  EXPECT_THAT(read_floats(table->tensors[0], out).error().message,
              HasSubstr("tensor 'a': expected finite values, got nan at position 2"));
  out.resize(2);
  EXPECT_THAT(read_floats(table->tensors[0], out).error().message, HasSubstr("expected 2 values, got 3"));
}

TEST(Safetensors, EveryHalfIsReadAsIeeeSays) {
  // From the definition, in double: sign, exponent, fraction.
  for (std::uint32_t half = 0; half < 0x10000; ++half) {
    const int exponent = static_cast<int>(half >> 10) & 31;
    if (exponent == 31) continue;
    const double fraction = (half & 1023) / 1024.0;
    const double magnitude =
        exponent == 0 ? std::pow(2.0, -14) * fraction : std::pow(2.0, exponent - 15) * (1 + fraction);
    const auto bits = static_cast<std::uint16_t>(half);
    TensorView tensor{.name = "h", .dtype = "F16", .shape = {1}, .bytes = std::as_bytes(std::span(&bits, 1))};
    float value = 0.0F;
    ASSERT_TRUE(read_floats(tensor, {&value, 1}));
    ASSERT_EQ(value, static_cast<float>((half & 0x8000U) != 0 ? -magnitude : magnitude)) << half;
  }
}

TEST(SafetensorsWriter, RefusesWhatIsNotFiniteAfterRounding) {
  const ScratchFolder folder;
  const auto append = [&](WeightDtype dtype, float value) {
    std::filesystem::remove(folder.path("f"));
    auto writer = SafetensorsWriter::create(folder.path("f"), {{"a", dtype, {1}}}, {});
    return writer->append({&value, 1}).has_value();
  };
  const float largest = std::numeric_limits<float>::max();
  EXPECT_TRUE(append(WeightDtype::float32, largest));
  EXPECT_FALSE(append(WeightDtype::bfloat16, largest));  // would be written as infinity
  EXPECT_TRUE(append(WeightDtype::bfloat16, 3.3895313892515355e38F));
  for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    EXPECT_FALSE(append(WeightDtype::float32, bad));
    EXPECT_FALSE(append(WeightDtype::bfloat16, -bad));
  }
}

TEST(SafetensorsWriter, NeverOverwrites) {
  const ScratchFolder folder;
  folder.write("f", "precious");
  EXPECT_FALSE(SafetensorsWriter::create(folder.path("f"), {}, {}));
  EXPECT_EQ(read_text(folder.path("f")), "precious");
}

TEST(SafetensorsWriter, TheDataBeginsAlignedAndTheDigestIsTheFiles) {
  const ScratchFolder folder;
  auto writer = SafetensorsWriter::create(folder.path("f"), {{"abc", WeightDtype::float32, {1}}}, {{"format", "pt"}});
  ASSERT_TRUE(writer);
  const float one = 1.0F;
  ASSERT_TRUE(writer->append({&one, 1}));
  const auto digest = writer->finish();
  ASSERT_TRUE(digest);
  const std::string text = read_text(folder.path("f"));
  EXPECT_EQ(text.size() % 8, 4u);
  EXPECT_EQ(digest->bytes, static_cast<std::int64_t>(text.size()));
  EXPECT_EQ(digest->hash, xxh3_128(as_bytes(text)));
}

// What is written is read again, whatever the names, shapes, dtypes and pieces are.
RC_GTEST_PROP(SafetensorsWriter, WhatIsWrittenIsRead, ()) {
  const ScratchFolder folder;
  const auto names = *rc::gen::container<std::set<std::string>>(
      rc::gen::container<std::string>(rc::gen::element('a', '.', '"', '\\', '\n', '\x7f', ' ', '0')));
  std::vector<TensorPlan> plan;
  std::vector<float> values;
  for (const std::string& name : names) {
    TensorPlan tensor{.name = name,
                      .dtype = *rc::gen::element(WeightDtype::float32, WeightDtype::bfloat16),
                      .shape = *rc::gen::container<std::vector<std::int64_t>>(rc::gen::inRange<std::int64_t>(0, 5))};
    if (tensor.shape.size() > 4) tensor.shape.resize(4);
    for (std::int64_t i = 0; i < tensor.count(); ++i) values.push_back(known_value(name, i));
    plan.push_back(std::move(tensor));
  }
  auto writer = SafetensorsWriter::create(folder.path("f"), plan, {{"a", "b"}});
  RC_ASSERT(writer.has_value());
  for (std::span<const float> rest(values); !rest.empty();) {
    const auto take = *rc::gen::inRange<std::size_t>(1, rest.size() + 1);
    RC_ASSERT(writer->append(rest.first(take)).has_value());
    rest = rest.subspan(take);
  }
  RC_ASSERT(writer->missing() == 0);
  RC_ASSERT(writer->finish().has_value());
  const auto file = SafetensorsFile::open(folder.path("f"));
  RC_ASSERT(file.has_value());
  RC_ASSERT(file->tensors().size() == plan.size());
  for (const TensorPlan& tensor : plan) {
    const TensorView* read = file->find(tensor.name);
    RC_ASSERT(read != nullptr);
    RC_ASSERT(read->shape == tensor.shape);
    RC_ASSERT(read->dtype == (tensor.dtype == WeightDtype::float32 ? "F32" : "BF16"));
    const std::vector<float> got = floats(*file, tensor.name);
    for (std::int64_t i = 0; i < tensor.count(); ++i) {
      RC_ASSERT(got[static_cast<std::size_t>(i)] == known_value(tensor.name, i));
    }
  }
}

}  // namespace
}  // namespace starling::trainer
