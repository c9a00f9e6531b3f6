#include "metrics/catalogue.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <regex>
#include <set>
#include <sstream>

#include "metrics/labels.h"

namespace starling::metrics {
namespace {

TEST(Catalogue, NamesEachMetricOnce) {
  std::set<std::string_view> names;
  for (const MetricSpec& spec : catalogue()) EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
  EXPECT_GE(names.size(), 30U);
}

TEST(Catalogue, FollowsTheConventionsOfPrometheus) {
  for (const MetricSpec& spec : catalogue()) {
    const std::string name(spec.name);
    EXPECT_TRUE(std::regex_match(name, std::regex("(starling|process)_[a-z][a-z_]*[a-z]"))) << name;
    EXPECT_EQ(name.ends_with("_total"), spec.type == MetricType::counter) << name;
    EXPECT_FALSE(name.ends_with("_count") || name.ends_with("_sum") || name.ends_with("_bucket")) << name;
    if (spec.unit == "seconds" || spec.unit == "bytes" || spec.unit == "ratio") {
      const std::string unit(spec.unit);
      EXPECT_TRUE(name.ends_with("_" + unit) || name.ends_with("_" + unit + "_total")) << name;
    }
    EXPECT_TRUE(spec.help.ends_with(".")) << name;
    for (const LabelSpec& label : spec.labels) EXPECT_NE(label.name, "run_id") << name << ": every series has it";
  }
}

TEST(Catalogue, GivesBucketsToHistogramsAlone) {
  for (const MetricSpec& spec : catalogue()) {
    EXPECT_EQ(spec.buckets.empty(), spec.type != MetricType::histogram) << spec.name;
    for (std::size_t i = 1; i < spec.buckets.size(); ++i) EXPECT_LT(spec.buckets[i - 1], spec.buckets[i]) << spec.name;
  }
}

TEST(Catalogue, HasNoLabelPerPairOfPeers) {
  for (const MetricSpec& spec : catalogue()) {
    int open_labels = 0;
    for (const LabelSpec& label : spec.labels) open_labels += label.name == "worker" || label.name == "peer";
    EXPECT_LE(open_labels, 1) << spec.name;
  }
}

TEST(Catalogue, EndsTheProcessWhenAMetricIsNotListed) {
  EXPECT_EQ(metric_spec("starling_workers").labels.at(0).values.size(), LabelValues<WorkerState>::names.size());
  EXPECT_DEATH(metric_spec("starling_made_up"), "the catalogue has every metric");
}

TEST(Catalogue, IsWhatTheReadmeShows) {
  const char* source = std::getenv("STARLING_TEST_SOURCE_DIR");
  ASSERT_NE(source, nullptr) << "run by ctest, or set it to the root of the sources";
  std::ifstream in(std::string(source) + "/metrics/README.md");
  std::ostringstream readme;
  readme << in.rdbuf();
  EXPECT_NE(readme.str().find(catalogue_markdown()), std::string::npos)
      << "metrics/README.md has to contain this table:\n\n"
      << catalogue_markdown();
}

}  // namespace
}  // namespace starling::metrics
