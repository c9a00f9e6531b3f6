// Random messages that obey every bound of wire.h, of each kind, now and then at the very bounds.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "gossip/base/random.h"
#include "gossip/net/wire.h"

namespace starling::net {

class WireSamples {
 public:
  explicit WireSamples(std::uint64_t seed) : random_(seed) {}

  static constexpr std::size_t kinds = std::variant_size_v<Message>;

  // A message of alternative `kind` of Message, as `from` would send it to `self`.
  Message message(std::size_t kind, const NodeId& from, const NodeId& self) {
    from_ = from;
    self_ = self;
    return make(kind, std::make_index_sequence<kinds>());
  }

  std::uint64_t number() { return random_.below(4) == 0 ? random_.next() : random_.below(1000); }
  std::uint64_t up_to(std::uint64_t largest) {
    switch (random_.below(8)) {
      case 0:
        return largest;
      case 1:
        return 0;
      default:
        return random_.below(largest + 1);
    }
  }
  Bytes bytes(std::size_t size) {
    Bytes out(size);
    for (std::byte& b : out) b = static_cast<std::byte>(random_.next());
    return out;
  }
  NodeId node() {
    NodeId id;
    for (std::byte& b : id.key) b = static_cast<std::byte>(random_.next());
    return id;
  }

 private:
  template <std::size_t... I>
  Message make(std::size_t kind, std::index_sequence<I...>) {
    Message out;
    ((I == kind ? void(out = fill(std::variant_alternative_t<I, Message>{})) : void()), ...);
    return out;
  }

  template <typename Enum>
  Enum named(Enum last) {
    return static_cast<Enum>(random_.below(static_cast<std::uint64_t>(last) + 1));
  }
  Bytes some_bytes(std::size_t limit) { return bytes(std::max<std::size_t>(1, up_to(limit))); }
  Duration duration() {
    return Duration(static_cast<Duration::rep>(up_to(static_cast<std::uint64_t>(max_wire_duration.count()))));
  }
  Step step() { return static_cast<Step>(up_to(static_cast<std::uint64_t>(max_step) + 1)) - 1; }
  Round round() { return static_cast<Round>(up_to(static_cast<std::uint64_t>(max_step))); }
  Stage stage() { return static_cast<Stage>(up_to(static_cast<std::uint64_t>(max_stages) - 1)); }
  DoneMark done_mark() { return {number(), step()}; }
  MicrobatchId microbatch() { return {node(), number(), step(), static_cast<std::uint32_t>(number())}; }
  ExchangeId exchange() { return {node(), number(), number()}; }
  TransferId ours() { return {from_, number(), number()}; }
  TransferId theirs() { return {self_, number(), number()}; }
  std::vector<Update> updates() {
    std::vector<Update> out(up_to(max_updates));
    for (Update& u : out) u = {named(Update::Kind::suspicion), some_bytes(max_record_bytes)};
    return out;
  }
  std::vector<Hop> hops() {
    std::vector<Hop> out(up_to(max_hops));
    for (Hop& h : out) h = {stage(), node()};
    return out;
  }
  About about() {
    switch (random_.below(6)) {
      case 0: {
        MicrobatchHeader h;
        h.id = microbatch();
        h.direction = named(Direction::backward);
        h.purpose = named(Purpose::eval);
        h.stage = stage();
        h.made = hops();
        h.ahead = hops();
        h.bypassed = h.made.size() == 64 ? random_.next() : up_to((std::uint64_t{1} << h.made.size()) - 1);
        h.age = duration();
        h.give_up_age = duration();
        h.borders.resize(up_to(std::uint64_t{20}));
        for (std::size_t i = 0; i < h.borders.size(); ++i) h.borders[i] = static_cast<std::uint32_t>(3 * i + 1 + random_.below(3));
        return h;
      }
      case 1:
        return ExchangePart{exchange(), round(), stage()};
      case 2:
        return StatePart{number(), stage(), static_cast<std::uint8_t>(up_to(2)), static_cast<std::uint8_t>(up_to(1))};
      case 3:
        return BackupPart{stage(), step(), round()};
      case 4:
        return CheckpointPart{stage(), step(), round(), static_cast<std::uint8_t>(up_to(4)), round(),
                              static_cast<std::int32_t>(1 + up_to(999))};
      default:
        return MetricsText{};
    }
  }

  Message fill(Ping) { return Ping{number(), done_mark(), updates()}; }
  Message fill(Ack) { return Ack{number(), node(), done_mark(), updates()}; }
  Message fill(PingRequest) { return PingRequest{number(), node()}; }
  Message fill(ViewRequest) { return ViewRequest{static_cast<std::uint32_t>(up_to(max_view_pages - 1))}; }
  Message fill(ViewPage) {
    const auto pages = static_cast<std::uint32_t>(1 + up_to(max_view_pages - 1));
    return ViewPage{static_cast<std::uint32_t>(up_to(pages - 1)), pages, updates()};
  }
  Message fill(Introduce) { return Introduce{some_bytes(max_record_bytes), some_bytes(max_record_bytes)}; }
  Message fill(IntroduceAck) { return IntroduceAck{node()}; }
  Message fill(Finish) { return Finish{some_bytes(max_statement_bytes)}; }
  Message fill(Report) {
    std::string lines(up_to(max_report_bytes), ' ');
    for (char& c : lines) c = random_.below(40) == 0 ? '\n' : static_cast<char>(' ' + random_.below(95));
    return Report{named(Report::File::events), lines};
  }
  Message fill(Done) { return Done{number(), step()}; }
  Message fill(Accepted) { return Accepted{theirs(), duration()}; }
  Message fill(Passed) { return Passed{microbatch(), named(Direction::backward)}; }
  Message fill(Ask) { return Ask{microbatch(), named(Direction::backward)}; }
  Message fill(AskAnswer) {
    return AskAnswer{named(AskAnswer::State::unknown), microbatch(), named(Direction::backward), duration()};
  }
  Message fill(Abandon) {
    MicrobatchId id = microbatch();
    id.originator = from_;
    return Abandon{id};
  }
  Message fill(Propose) {
    ExchangeId id = exchange();
    id.proposer = from_;
    return Propose{id, round(), stage()};
  }
  Message fill(Accept) { return Accept{exchange(), round()}; }
  Message fill(Decline) { return Decline{named(Decline::Code::finished), exchange(), round()}; }
  Message fill(Got) { return Got{exchange()}; }
  Message fill(StateRequest) {
    return StateRequest{named(StateRequest::Source::backup), number(), stage(), static_cast<std::uint8_t>(up_to(7))};
  }
  Message fill(StateInfo) {
    StateInfo out{number(),
                  stage(),
                  step(),
                  round(),
                  duration(),
                  static_cast<std::int64_t>(up_to(1 << 20)),
                  static_cast<std::uint8_t>(up_to(7)),
                  random_.below(2) == 0,
                  {}};
    out.done.resize(up_to(max_originators));
    for (auto& done : out.done) done = {node(), done_mark()};
    out.gradient_norm = static_cast<double>(up_to(1 << 20)) / 7.0;
    return out;
  }
  Message fill(Offer) {
    Offer out{ours(), about(), up_to(max_transfer_bytes), {}, 0};
    for (std::byte& b : out.hash) b = static_cast<std::byte>(random_.next());
    out.follows = up_to(out.bytes);
    return out;
  }
  Message fill(Pull) {
    const std::uint64_t upto = 1 + up_to(max_transfer_bytes - 1);
    return Pull{theirs(), up_to(upto - 1), upto};
  }
  Message fill(Release) { return Release{theirs()}; }
  Message fill(Refuse) { return Refuse{theirs(), named(RefuseCode::malformed)}; }
  Message fill(Credit) { return Credit{number()}; }

  Stream random_;
  NodeId from_;
  NodeId self_;
};

}  // namespace starling::net
