#include "launcher/plan_gantt.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>

namespace starling::launcher {
namespace {

using pipeline::PlanJob;
using pipeline::PlanReport;

constexpr double left = 150.0;
constexpr double top = 64.0;
constexpr double row_height = 26.0;
constexpr double box_height = 16.0;
constexpr double stage_gap = 8.0;
constexpr double chart_width = 1150.0;
constexpr double right = 30.0;
constexpr double bottom = 20.0;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

struct Look {
  const char* letter;
  const char* name;
  const char* fill;
};

Look look_of(PlanJob::Kind kind) {
  switch (kind) {
    case PlanJob::Kind::forward:
      return {"F", "forward", "#cfe3f7"};
    case PlanJob::Kind::loss:
      return {"L", "loss", "#222222"};
    case PlanJob::Kind::backward:
      return {"B", "backward", "url(#backward)"};
  }
  return {"", "", ""};
}

// A step of 1, 2 or 5 times a power of ten that gives about ten marks.
double tick_of(double seconds) {
  const double rough = seconds / 10.0;
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  const double lead = rough / power;
  return power * (lead < 1.5 ? 1.0 : lead < 3.5 ? 2.0 : lead < 7.5 ? 5.0 : 10.0);
}

class Chart {
 public:
  Chart(const PlanReport& report, const std::vector<std::string>& names)
      : report_(report), names_(names), scale_(chart_width / report.seconds), row_top_(report.nodes.size()) {
    std::vector<std::size_t> order(report.nodes.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return report.nodes[a].stage < report.nodes[b].stage; });
    double y = top;
    for (std::size_t k = 0; k < order.size(); ++k) {
      if (k > 0 && report.nodes[order[k]].stage != report.nodes[order[k - 1]].stage) y += stage_gap;
      row_top_[order[k]] = y;
      y += row_height;
    }
    chart_end_ = y;
  }

  std::string draw() {
    const double width = left + chart_width + right;
    add("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" viewBox=\"0 0 {0:.0f} "
        "{1:.0f}\" "
        "font-family=\"sans-serif\" font-size=\"11\">\n",
        width, chart_end_ + bottom);
    add("<title>One iteration of {:.2f} s</title>\n", report_.seconds);
    add("<defs><pattern id=\"backward\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" "
        "patternTransform=\"rotate(45)\"><rect width=\"6\" height=\"6\" fill=\"#fbe3c0\"/>"
        "<line x1=\"0\" y1=\"0\" x2=\"0\" y2=\"6\" stroke=\"#b8691c\" stroke-width=\"2\"/></pattern></defs>\n"
        "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
    legend();
    axis();
    rows();
    for (const PlanJob& job : report_.jobs) waiting(job);
    for (const PlanJob& job : report_.jobs) box(job);
    out_ += "</svg>\n";
    return std::move(out_);
  }

 private:
  template <typename... Args>
  void add(fmt::format_string<Args...> format, Args&&... args) {
    fmt::format_to(std::back_inserter(out_), format, std::forward<Args>(args)...);
  }
  double x(double seconds) const { return left + seconds * scale_; }

  void legend() {
    double at = left;
    for (const auto kind : {PlanJob::Kind::forward, PlanJob::Kind::loss, PlanJob::Kind::backward}) {
      const Look look = look_of(kind);
      add("<rect x=\"{:.1f}\" y=\"12\" width=\"24\" height=\"14\" fill=\"{}\" stroke=\"#222222\"/>"
          "<text x=\"{:.1f}\" y=\"23\">{} {}</text>\n",
          at, look.fill, at + 30, look.letter, look.name);
      at += 120;
    }
    add("<line x1=\"{:.1f}\" y1=\"20\" x2=\"{:.1f}\" y2=\"20\" stroke=\"#555555\" stroke-width=\"3\" "
        "stroke-dasharray=\"2 3\"/>"
        "<text x=\"{:.1f}\" y=\"23\">a microbatch waits for the node or for a slot</text>"
        "<text x=\"{:.1f}\" y=\"23\">seconds; the number in a box is its microbatch</text>\n",
        at, at + 24, at + 30, at + 300);
  }

  void axis() {
    const double tick = tick_of(report_.seconds);
    for (int k = 0; k * tick <= report_.seconds * (1 + 1e-9); ++k) {
      add("<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke=\"#dddddd\"/>"
          "<text x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"middle\">{4:g}</text>\n",
          x(k * tick), top - 4, chart_end_, top - 8, k * tick);
    }
    add("<line x1=\"{0:.1f}\" y1=\"{1:.1f}\" x2=\"{0:.1f}\" y2=\"{2:.1f}\" stroke=\"#222222\"/>"
        "<text x=\"{0:.1f}\" y=\"{3:.1f}\" text-anchor=\"end\" font-weight=\"bold\">done at {4:.2f}</text>\n",
        x(report_.seconds), top - 4, chart_end_, top - 22, report_.seconds);
  }

  void rows() {
    for (std::size_t n = 0; n < row_top_.size(); ++n) {
      const std::string name =
          n < names_.size() && !names_[n].empty() ? fmt::format("{} {}", n, names_[n]) : std::to_string(n);
      add("<text x=\"6\" y=\"{0:.1f}\">stage {1}</text><text x=\"56\" y=\"{0:.1f}\">{2}</text>"
          "<line x1=\"{3:.1f}\" y1=\"{4:.1f}\" x2=\"{5:.1f}\" y2=\"{4:.1f}\" stroke=\"#eeeeee\"/>\n",
          row_top_[n] + 13, report_.nodes[n].stage, escaped(name), left, row_top_[n] + row_height - 2,
          left + chart_width);
    }
  }

  void waiting(const PlanJob& job) {
    if (job.begins - job.arrives < 1e-9) return;
    const double y = row_top_[static_cast<std::size_t>(job.node)] + box_height + 4;
    add("<line x1=\"{0:.2f}\" y1=\"{1:.1f}\" x2=\"{2:.2f}\" y2=\"{1:.1f}\" stroke=\"#555555\" stroke-width=\"3\" "
        "stroke-dasharray=\"2 3\"><title>microbatch {3} waits {4:.2f} s</title></line>\n",
        x(job.arrives), y, x(job.begins), job.microbatch, job.begins - job.arrives);
  }

  void box(const PlanJob& job) {
    const Look look = look_of(job.kind);
    const double y = row_top_[static_cast<std::size_t>(job.node)];
    const double width = (job.ends - job.begins) * scale_;
    add("<rect x=\"{:.2f}\" y=\"{:.1f}\" width=\"{:.2f}\" height=\"{}\" fill=\"{}\" stroke=\"#222222\" "
        "stroke-width=\"0.7\">"
        "<title>{} of microbatch {}, {:.2f} to {:.2f} s</title></rect>\n",
        x(job.begins), y, width, box_height, look.fill, look.name, job.microbatch, job.begins, job.ends);
    const std::string label = fmt::format("{}{}", look.letter, job.microbatch);
    if (width < 6.0 * static_cast<double>(label.size()) || job.kind == PlanJob::Kind::loss) return;
    add("<text x=\"{:.2f}\" y=\"{:.1f}\" text-anchor=\"middle\" font-size=\"9\" font-weight=\"bold\" "
        "stroke=\"#ffffff\" "
        "stroke-width=\"2.5\" paint-order=\"stroke\">{}</text>\n",
        x(job.begins) + width / 2, y + 12, label);
  }

  const PlanReport& report_;
  const std::vector<std::string>& names_;
  double scale_;
  std::vector<double> row_top_;
  double chart_end_ = 0.0;
  std::string out_;
};

}  // namespace

std::string gantt_svg(const PlanReport& report, const std::vector<std::string>& names) {
  return Chart(report, names).draw();
}

}  // namespace starling::launcher
