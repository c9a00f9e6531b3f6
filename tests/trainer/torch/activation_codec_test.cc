#include "trainer/torch/activation_codec.h"

#include <ATen/Functions.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include <limits>

namespace starling::trainer {
namespace {

class ActivationCodec : public testing::TestWithParam<Encoding> {
 protected:
  c10::InferenceMode no_autograd_;
};

TEST_P(ActivationCodec, ComesBackAsItWas) {
  // Small integers and halves are exact in both encodings.
  const at::Tensor values = at::arange(-30, 30, at::TensorOptions(at::kFloat)).div_(2).view({10, 6});
  const Buffer bytes = encode_activation(values, GetParam());
  ASSERT_NE(bytes, nullptr);
  EXPECT_EQ(bytes->size(), GetParam() == Encoding::fp32 ? 240u : 120u);
  const auto back = decode_activation(*bytes, GetParam(), 10, 6);
  ASSERT_TRUE(back);
  EXPECT_TRUE(at::equal(*back, values));
}

TEST_P(ActivationCodec, RefusesWhatIsNotFinite) {
  for (const float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                          std::numeric_limits<float>::quiet_NaN()}) {
    at::Tensor values = at::zeros({4, 5}, at::kFloat);
    values[3][4] = bad;
    EXPECT_EQ(encode_activation(values, GetParam()), nullptr);
  }
}

TEST_P(ActivationCodec, RefusesAnotherSize) {
  const Buffer bytes = encode_activation(at::zeros({4, 5}, at::kFloat), GetParam());
  EXPECT_FALSE(decode_activation(*bytes, GetParam(), 4, 6));
  EXPECT_FALSE(decode_activation(*bytes, GetParam(), 5, 3));
  EXPECT_FALSE(decode_activation({}, GetParam(), 4, 5));
}

TEST_P(ActivationCodec, TheLargestNumbers) {
  // The largest fp32 would round to infinity in bf16; the largest bf16 fits.
  at::Tensor values = at::full({1, 1}, std::numeric_limits<float>::max(), at::kFloat);
  EXPECT_EQ(encode_activation(values, GetParam()) == nullptr, GetParam() == Encoding::bf16);
  values.fill_(3.3895313892515355e38F);
  EXPECT_NE(encode_activation(values, GetParam()), nullptr);
}

INSTANTIATE_TEST_SUITE_P(Encodings, ActivationCodec, testing::Values(Encoding::fp32, Encoding::bf16));

}  // namespace
}  // namespace starling::trainer
