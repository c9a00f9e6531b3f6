#include "trainer/worker/training_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

namespace starling::trainer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

const OptimizerConfig optimizer{.lr = 1.0e-3};
const SchedulerConfig scheduler{.warmup_steps = 10, .min_lr = 1.0e-4};

TEST(LearningRate, RisesInALine) {
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, scheduler, 1, 110), 1.0e-4);
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, scheduler, 5, 110), 5.0e-4);
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, scheduler, 10, 110), 1.0e-3);
}

TEST(LearningRate, FallsAsACosine) {
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, scheduler, 60, 110), 5.5e-4);  // half way: the mean of lr and min_lr
  // A quarter of the way: min + (lr - min) (1 + cos 45 deg) / 2.
  EXPECT_NEAR(learning_rate(optimizer, scheduler, 35, 110), 1.0e-4 + 9.0e-4 * 0.853553390593, 1e-14);
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, scheduler, 110, 110), 1.0e-4);
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, scheduler, 1000, 110), 1.0e-4);
}

TEST(LearningRate, WithoutWarmUpStartsNearTheTop) {
  const SchedulerConfig sudden{.warmup_steps = 0, .min_lr = 0.0};
  EXPECT_NEAR(learning_rate(optimizer, sudden, 1, 1000), 1.0e-3, 1e-8);
  EXPECT_DOUBLE_EQ(learning_rate(optimizer, sudden, 0, 1000), 1.0e-3);
}

TEST(TrainingConfig, NeedsAnEnd) {
  EXPECT_THAT(TrainingConfig{}.validate(), ElementsAre(HasSubstr("set max_steps or max_tokens")));
  EXPECT_THAT((TrainingConfig{.max_steps = 1, .max_tokens = {}}.validate()), IsEmpty());
  EXPECT_THAT((TrainingConfig{.max_steps = {}, .max_tokens = 1}.validate()), IsEmpty());
}

TEST(TrainingConfig, EveryProblemIsNamed) {
  const TrainingConfig config{.seq_len = 0,
                              .micro_batch_size = -1,
                              .microbatches = 1 << 30,
                              .max_steps = 0,
                              .max_tokens = {},
                              .max_grad_norm = 0.0,
                              .dtype = "float16"};
  EXPECT_THAT(config.validate(),
              ElementsAre(HasSubstr("seq_len: expected 1 to"), HasSubstr("micro_batch_size"), HasSubstr("microbatches"),
                          HasSubstr("max_steps"), HasSubstr("max_grad_norm"), HasSubstr("got 'float16'")));
}

TEST(OptimizerConfig, EveryProblemIsNamed) {
  EXPECT_THAT(OptimizerConfig{}.validate(), IsEmpty());
  const OptimizerConfig config{.name = "sgd",
                               .lr = std::numeric_limits<double>::quiet_NaN(),
                               .beta1 = 1.0,
                               .beta2 = -0.1,
                               .eps = 0.0,
                               .weight_decay = -1.0};
  EXPECT_THAT(config.validate(), ElementsAre(HasSubstr("adamw"), HasSubstr("lr"), HasSubstr("betas[0]"),
                                             HasSubstr("betas[1]"), HasSubstr("eps"), HasSubstr("weight_decay")));
}

TEST(SchedulerConfig, EveryProblemIsNamed) {
  EXPECT_THAT(SchedulerConfig{}.validate(), IsEmpty());
  const SchedulerConfig config{.name = "linear", .warmup_steps = -1, .min_lr = -1.0};
  EXPECT_THAT(config.validate(), ElementsAre(HasSubstr("cosine"), HasSubstr("warmup_steps"), HasSubstr("min_lr")));
}

TEST(ParallelismConfig, EveryProblemIsNamed) {
  EXPECT_THAT(ParallelismConfig{}.validate(), IsEmpty());
  const ParallelismConfig config{.stages = 0, .replicas = 0, .stage_layers = {0}};
  EXPECT_THAT(config.validate(), ElementsAre(HasSubstr("stages: expected"), HasSubstr("replicas"),
                                             HasSubstr("auto or 0 numbers"), HasSubstr("1 or more blocks")));
}

TEST(EvalConfig, EveryProblemIsNamed) {
  EXPECT_THAT(EvalConfig{}.validate(), IsEmpty());
  EXPECT_THAT((EvalConfig{.interval = -1, .batches = 0}.validate()),
              ElementsAre(HasSubstr("interval"), HasSubstr("batches")));
}

}  // namespace
}  // namespace starling::trainer
