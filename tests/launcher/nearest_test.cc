#include "launcher/nearest.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <string>
#include <vector>

namespace starling::launcher {
namespace {

TEST(EditDistance, CountsSlipsOfTheFinger) {
  struct Case {
    const char* a;
    const char* b;
    std::size_t expected;
  };
  for (const Case& c : {Case{"", "", 0},
                        {"lr", "lr", 0},
                        {"lr", "LR", 0},
                        {"lr", "", 2},
                        {"steps", "step", 1},
                        {"stpes", "steps", 1},
                        {"kitten", "sitting", 3},
                        {"seq_len", "seqlen", 1}}) {
    EXPECT_EQ(edit_distance(c.a, c.b), c.expected) << c.a << " " << c.b;
    EXPECT_EQ(edit_distance(c.b, c.a), c.expected) << c.b << " " << c.a;
  }
}

TEST(EditDistance, OneReplacedLetterIsAtMostOneAway) {
  EXPECT_TRUE(rc::check([](const std::string& name, std::size_t at, char letter) {
    RC_PRE(!name.empty() && name.size() <= 64);
    std::string changed = name;
    changed[at % name.size()] = letter;
    RC_ASSERT(edit_distance(name, changed) <= 1U);
    RC_ASSERT(edit_distance(changed, name) == edit_distance(name, changed));
  }));
}

TEST(NameDistance, KnowsAbbreviationsAndWordsLeftOut) {
  EXPECT_EQ(name_distance("learning_rate", "lr"), 1U);
  EXPECT_EQ(name_distance("lr", "learning-rate"), 1U);
  EXPECT_EQ(name_distance("num_layers", "num_hidden_layers"), 2U);
  EXPECT_EQ(name_distance("batch_size", "micro_batch_size"), 2U);
  EXPECT_EQ(name_distance("warmup_step", "warmup_steps"), 1U);
}

TEST(NameDistance, IsNothingForNamesThatShareNothing) {
  EXPECT_FALSE(name_distance("zebra", "lr"));
  EXPECT_FALSE(name_distance("", "lr"));
  EXPECT_FALSE(name_distance("eps", "lr"));
  EXPECT_FALSE(name_distance(std::string(65, 'a'), std::string(65, 'a')));
}

TEST(Nearest, PrefersTheFirstOfEquals) {
  const std::vector<std::string> names{"launch", "init", "validate", "vaildate"};
  EXPECT_EQ(nearest("validat", names), "validate");
  EXPECT_EQ(nearest("lunch", names), "launch");
  EXPECT_FALSE(nearest("tokenize", names));
  EXPECT_EQ(did_you_mean("intt", names), " (did you mean 'init'?)");
  EXPECT_EQ(did_you_mean("tokenize", names), "");
}

}  // namespace
}  // namespace starling::launcher
