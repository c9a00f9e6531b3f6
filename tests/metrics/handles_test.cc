#include "metrics/handles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <sstream>

#include "metrics/http_server.h"
#include "tests/metrics/full_metrics.h"

namespace starling::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) out.push_back(line);
  return out;
}

TEST(Metrics, WritesGaugesCountersAndHistograms) {
  Metrics metrics("run1");
  metrics.training_step("w03").set(120);
  metrics.learning_rate("w03").set(5.9e-7);
  metrics.stage_skips(2, SkipReason::dead).add();
  metrics.stage_skips(2, SkipReason::dead).add(2);
  metrics.step_duration(StepPhase::forward).observe(std::chrono::milliseconds(30));
  const std::string text = metrics.text();
  EXPECT_THAT(text, HasSubstr("# TYPE starling_training_step gauge\n"));
  EXPECT_THAT(text, HasSubstr("starling_training_step{run_id=\"run1\",worker=\"w03\"} 120\n"));
  EXPECT_THAT(text, HasSubstr("starling_learning_rate{run_id=\"run1\",worker=\"w03\"} 5.9e-07\n"));
  EXPECT_THAT(text, HasSubstr("starling_stage_skips_total{run_id=\"run1\",reason=\"dead\",stage=\"2\"} 3\n"));
  EXPECT_THAT(text,
              HasSubstr("starling_step_duration_seconds_bucket{run_id=\"run1\",phase=\"forward\",le=\"0.025\"} 0\n"));
  EXPECT_THAT(text,
              HasSubstr("starling_step_duration_seconds_bucket{run_id=\"run1\",phase=\"forward\",le=\"0.05\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("starling_step_duration_seconds_sum{run_id=\"run1\",phase=\"forward\"} 0.03\n"));
}

TEST(Metrics, EverySeriesSaysWhichRunItIsOf) {
  for (const std::string& line : lines_of(full_metrics(3, 2)->text())) {
    if (line.starts_with('#')) continue;
    EXPECT_THAT(line, HasSubstr("run_id=\"" + std::string(64, 'f') + "\""));
  }
}

TEST(Metrics, ExportsWhatTheCatalogueSaysExists) {
  std::set<std::string> exported;
  for (const std::string& line : lines_of(full_metrics(1, 1)->text())) {
    std::istringstream words(line);
    std::string hash, keyword, name, type;
    if (words >> hash >> keyword >> name >> type && hash == "#" && keyword == "TYPE") {
      exported.insert(name);
      EXPECT_EQ(type, to_string(metric_spec(name).type)) << name;
    }
  }
  std::set<std::string> existing;
  for (const MetricSpec& spec : catalogue()) {
    if (spec.availability == Availability::now) existing.insert(std::string(spec.name));
  }
  EXPECT_EQ(exported, existing);
}

TEST(Metrics, StartsKnownSeriesAtZero) {
  const std::string text = Metrics("r").text();
  for (const std::string_view outcome : LabelValues<MicrobatchOutcome>::names) {
    EXPECT_THAT(text,
                HasSubstr("starling_microbatches_total{run_id=\"r\",outcome=\"" + std::string(outcome) + "\"} 0\n"));
  }
  EXPECT_THAT(text, HasSubstr("starling_worker_joins_total{run_id=\"r\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("starling_workers{run_id=\"r\",state=\"suspect\"} 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("worker=")));  // those are not known beforehand
  EXPECT_DEATH(Metrics("r").workers(WorkerState::left), "no such value");
}

TEST(Metrics, WritesItsSeriesInAFixedOrder) {
  Metrics a("r"), b("r");
  a.worker_up("x").set(1);
  a.worker_up("y").set(1);
  b.worker_up("y").set(1);
  b.worker_up("x").set(1);
  EXPECT_EQ(a.text(), b.text());
}

TEST(Counter, NeverFalls) {
  Metrics metrics("r");
  auto counter = metrics.messages_rejected(Rejection::oversize);
  counter.advance_to(5);
  counter.advance_to(3);  // whoever counts has started again
  EXPECT_EQ(counter.value(), 5);
  counter.advance_to(6);
  EXPECT_EQ(counter.value(), 6);
  EXPECT_DEATH(counter.add(-1), "never falls");
}

TEST(Histogram, LeavesOutWhatIsNotFinite) {
  Metrics metrics("r");
  metrics.network_round_trip().observe(0.25);
  metrics.network_round_trip().observe(std::numeric_limits<double>::quiet_NaN());
  metrics.network_round_trip().observe(std::numeric_limits<double>::infinity());
  EXPECT_THAT(metrics.text(), HasSubstr("starling_network_round_trip_seconds_sum{run_id=\"r\"} 0.25\n"));
  EXPECT_THAT(metrics.text(), HasSubstr("starling_network_round_trip_seconds_count{run_id=\"r\"} 1\n"));
}

TEST(Gauge, ShowsALossThatIsNotFinite) {
  Metrics metrics("r");
  metrics.training_loss("w0").set(std::numeric_limits<double>::quiet_NaN());
  EXPECT_THAT(metrics.text(), HasSubstr("starling_training_loss{run_id=\"r\",worker=\"w0\"} Nan\n"));
}

TEST(Metrics, MakesLabelsOfStrangersSafe) {
  Metrics metrics("r");
  metrics.worker_up("a\"} 1\nstarling_forged 1\n#\xff").set(1);
  const std::string text = metrics.text();
  EXPECT_THAT(text, Not(HasSubstr("\nstarling_forged")));
  EXPECT_THAT(text, HasSubstr("worker=\"a\\\"} 1\\\\nstarling_forged 1\\\\n#\\\\xff\"} 1\n"));
  metrics.worker_up(std::string(100000, 'x')).set(1);
  EXPECT_LT(metrics.text().size(), text.size() + 500);
}

TEST(Metrics, BoundsTheNumberOfSeries) {
  Metrics metrics("r");
  for (std::size_t i = 0; i < max_series; ++i) metrics.worker_up(std::to_string(i)).set(1);
  EXPECT_EQ(metrics.refused_series(), 0U);
  metrics.worker_up("one-too-many").set(1);
  metrics.worker_up("7").set(0);  // one that is there goes on
  EXPECT_EQ(metrics.refused_series(), 1U);
  const std::string text = metrics.text();
  EXPECT_THAT(text, Not(HasSubstr("one-too-many")));
  EXPECT_THAT(text, HasSubstr("starling_worker_up{run_id=\"r\",worker=\"7\"} 0\n"));
  metrics.forget_worker("7");
  metrics.worker_up("another").set(1);
  EXPECT_THAT(metrics.text(), HasSubstr("worker=\"another\""));
}

TEST(Metrics, ForgetsAWorkerEverywhere) {
  auto metrics = full_metrics(2, 3);
  EXPECT_THAT(metrics->text(), HasSubstr("a-long-name-of-a-worker-1"));
  metrics->forget_worker("a-long-name-of-a-worker-1");
  metrics->forget_worker("nobody");
  EXPECT_THAT(metrics->text(), Not(HasSubstr("a-long-name-of-a-worker-1\"")));
  EXPECT_THAT(metrics->text(), HasSubstr("a-long-name-of-a-worker-2"));
}

TEST(Metrics, TwoNamesThatBecomeOneLabelShareItsSeries) {
  Metrics metrics("r");
  const std::string long_name(max_label_bytes, 'x');
  metrics.worker_up(long_name + "yyyy").set(1);
  metrics.worker_up(long_name + "zzzz").set(0);
  metrics.forget_worker(long_name + "yyyy");
  metrics.worker_up(long_name + "zzzz").set(1);
  EXPECT_THAT(metrics.text(), HasSubstr("xxx...\"} 1\n"));
  metrics.forget_worker(long_name + "zzzz");
  EXPECT_THAT(metrics.text(), Not(HasSubstr("xxx...")));
}

// A worker that cannot be scraped sends its text to others, who take no more than that.
TEST(Metrics, OneWorkersTextFitsWhereItIsReplayed) {
  EXPECT_LT(full_metrics(16, 1)->text().size(), max_worker_metrics_bytes);
}

}  // namespace
}  // namespace starling::metrics
