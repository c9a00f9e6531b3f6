#include "launcher/chaos.h"

#include <signal.h>

#include <algorithm>
#include <charconv>
#include <sstream>

#include "gossip/base/random.h"

namespace starling::launcher {
namespace {

tl::unexpected<Error> form(std::string_view got) {
  return fail(ErrorCode::usage,
              "--chaos '" + std::string(got) +
                  "': expected 'kill 50% at step 100', 'stop 50% at step 100' or 'kill stage 2 at step 100'");
}

template <typename T>
bool number(std::string_view text, T& out) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), out);
  return failure == std::errc{} && end == text.data() + text.size();
}

Result<Chaos> parse_one(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  Chaos out;
  if (words.size() < 5) return form(text);
  if (words[0] == "stop") {
    out.kind = Chaos::Kind::stop;
  } else if (words[0] != "kill") {
    return form(text);
  }
  std::size_t next = 2;
  if (words[1] == "stage") {
    if (!number(words[2], out.stage) || out.stage < 0) return form(text);
    out.share = 1.0;
    next = 3;
  } else {
    if (!words[1].ends_with('%')) return form(text);
    words[1].pop_back();
    if (!number(words[1], out.share) || out.share <= 0.0 || out.share > 100.0) return form(text);
    out.share /= 100.0;
  }
  if (words.size() != next + 3 || words[next] != "at" || words[next + 1] != "step" ||
      !number(words[next + 2], out.step) || out.step < 1) {
    return form(text);
  }
  return out;
}

}  // namespace

Result<std::vector<Chaos>> parse_chaos(std::string_view text) {
  std::vector<Chaos> out;
  std::string part;
  std::string all(text);
  std::replace(all.begin(), all.end(), ';', ',');
  std::istringstream in(all);
  while (std::getline(in, part, ',')) {
    auto one = parse_one(part);
    if (!one) return tl::unexpected(one.error());
    out.push_back(*one);
  }
  if (out.empty()) return form(text);
  return out;
}

std::vector<std::string> chaos_victims(const Chaos& chaos, std::uint64_t seed, std::vector<std::string> names) {
  const std::uint64_t parts[] = {static_cast<std::uint64_t>(chaos.step), static_cast<std::uint64_t>(chaos.stage)};
  Stream stream(mix_seed(mix_seed(seed, "chaos"), parts));
  const auto count = static_cast<std::size_t>(chaos.share * static_cast<double>(names.size()));
  stream.shuffle(names);
  names.resize(count);
  std::sort(names.begin(), names.end());
  return names;
}

void ChaosCrew::look(const membership::Swarm& swarm, Supervisor& workers, EventLog& events, std::ostream& err) {
  for (const auto& [id, peer] : swarm.peers) stages_[peer.record.name] = peer.record.stage;
  const Step done = swarm.largest_done();
  for (auto it = plan_.begin(); it != plan_.end();) {
    if (done < it->step) {
      ++it;
      continue;
    }
    std::vector<std::string> names;
    for (const std::string& name : workers.running()) {
      if (!stopped_.contains(name) && (it->stage == no_stage || stages_[name] == it->stage)) names.push_back(name);
    }
    for (const std::string& name : chaos_victims(*it, seed_, names)) {
      const bool kill = it->kind == Chaos::Kind::kill;
      if (!workers.send_signal(name, kill ? SIGKILL : SIGSTOP)) continue;
      if (!kill) stopped_.insert(name);
      err << "chaos at step " << done << ": " << (kill ? "kill " : "stop ") << name << " (stage " << stages_[name]
          << ")\n";
      events.write("chaos", {{"worker", name},
                             {"action", std::string(kill ? "kill" : "stop")},
                             {"stage", static_cast<std::int64_t>(stages_[name])},
                             {"step", static_cast<std::int64_t>(done)}});
    }
    it = plan_.erase(it);
  }
}

}  // namespace starling::launcher
