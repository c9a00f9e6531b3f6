#include "tests/support/plan_instances.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <utility>
#include <vector>

#include "launcher/plan_file.h"

namespace starling::test {
namespace {

using pipeline::PlanInstance;

constexpr const char* regions[] = {"Belgium", "Canada", "Germany",   "Iowa",   "Japan",  "LA",
                                   "NL",      "Oregon", "Singapore", "Taiwan", "London", "Australia"};
constexpr double fixed_seconds = 0.35;
constexpr double activation_gib = 1.0 / 32.0;
constexpr double corrected_gib_per_second = 0.2425;

struct Link {
  double latency_ms = 1.0;
  double gib_per_second = 2.0;
};

std::map<std::pair<std::string, std::string>, Link> read_links() {
  std::map<std::pair<std::string, std::string>, Link> out;
  std::istringstream lines(read_golden("cloud_links.csv"));
  std::string line;
  std::getline(lines, line);  // the names of the columns
  while (std::getline(lines, line)) {
    std::istringstream fields(line);
    std::string a;
    std::string b;
    std::string latency;
    std::string bandwidth;
    std::getline(fields, a, ',');
    std::getline(fields, b, ',');
    std::getline(fields, latency, ',');
    std::getline(fields, bandwidth, ',');
    Link link{std::stod(latency), std::stod(bandwidth)};
    if ((a == "NL" && b == "London") || (a == "London" && b == "NL")) link.gib_per_second = corrected_gib_per_second;
    out[{a, b}] = out[{b, a}] = link;
  }
  return out;
}

}  // namespace

std::filesystem::path golden_directory() {
  const char* root = std::getenv("STARLING_TEST_SOURCE_DIR");
  return std::filesystem::path(root == nullptr ? "." : root) / "tests" / "golden";
}

std::string read_golden(const std::string& name) {
  std::ifstream file(golden_directory() / name, std::ios::binary);
  STARLING_CHECK(file.good(), "tests/golden is found: set STARLING_TEST_SOURCE_DIR, or run in the repository's root");
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

PlanInstance published_instance() {
  auto file = launcher::parse_plan_file(read_golden("skippipe_20_nodes.json"));
  STARLING_CHECK(file.has_value(), "the published instance is valid");
  return std::move(file->instance);
}

PlanInstance cloud_instance(int nodes, int stages, int path_length) {
  static const auto links = read_links();
  PlanInstance out;
  out.nodes = nodes;
  for (int i = 0; i < nodes; ++i) {
    for (int j = 0; j < nodes; ++j) {
      const std::string a = regions[i % 12];
      const std::string b = regions[j % 12];
      const Link link = a == b ? Link{} : links.at({a, b});
      out.delays.push_back(i == j ? 0.0 : fixed_seconds + link.latency_ms / 1e3 + activation_gib / link.gib_per_second);
    }
  }
  out.forward_seconds.assign(static_cast<std::size_t>(nodes), 0.44);
  out.memory.assign(static_cast<std::size_t>(nodes), 3);
  out.stages = stages;
  for (int s = 0; s < stages; ++s) out.stage_sizes.push_back(nodes / stages + (s < nodes % stages ? 1 : 0));
  out.originators = out.stage_sizes[0];
  out.path_length = path_length;
  out.microbatches_per_originator = 6;
  STARLING_CHECK(out.validate().has_value(), "a cloud instance is valid");
  return out;
}

PlanInstance corrected_instance() {
  PlanInstance out = published_instance();
  const PlanInstance cloud = cloud_instance(out.nodes, out.stages, out.path_length);
  out.delays = cloud.delays;
  return out;
}

PlanInstance vary(PlanInstance instance, std::uint64_t seed) {
  Stream random(seed);
  for (double& seconds : instance.forward_seconds) seconds *= 1.0 + 7.0 * random.uniform();
  for (int& slots : instance.memory) slots = 1 + static_cast<int>(random.below(6));
  return instance;
}

PlanInstance random_instance(int nodes, Stream& random) {
  const auto from_to = [&random](int least, int most) {
    return least + static_cast<int>(random.below(static_cast<std::uint64_t>(most - least + 1)));
  };
  PlanInstance out;
  out.nodes = nodes;
  out.stages = from_to(2, std::min(nodes, 9));
  out.path_length = from_to(2, out.stages);
  out.microbatches_per_originator = from_to(1, 6);
  std::vector<int> sizes(static_cast<std::size_t>(out.stages), 1);
  for (int k = out.stages; k < nodes; ++k) ++sizes[random.below(sizes.size())];
  out.originators = sizes[0];
  if (random.below(3) > 0) out.stage_sizes = sizes;
  for (int i = 0; i < nodes; ++i) {
    for (int j = 0; j < nodes; ++j)
      out.delays.push_back(i == j || random.below(20) == 0 ? 0.0 : 3.0 * random.uniform());
    out.forward_seconds.push_back(0.01 + random.uniform());
    out.memory.push_back(from_to(1, 4));
  }
  STARLING_CHECK(out.validate().has_value(), "a random instance is valid");
  return out;
}

}  // namespace starling::test
