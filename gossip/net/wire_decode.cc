// Decoding of control frames. Everything here is suspect.
//
// Two gates. The FlatBuffers verifier proves that every offset and length lies inside the frame, at a bounded depth and
// number of tables. It does not prove that a field is present, that an enum has a name, or that a number makes sense:
// the Decoder below does, field by field, and remembers the first thing that was wrong. Vectors may share their bytes
// inside a frame, so a small frame could stand for much memory: every count is checked before anything is copied, which
// bounds what one frame can make us allocate to max_updates * max_record_bytes.
#include <algorithm>
#include <functional>
#include <limits>

#include "gossip/net/wire.h"
#include "gossip/net/wire_generated.h"

namespace starling::net {
namespace {

using ByteVector = flatbuffers::Vector<std::uint8_t>;
template <typename Table>
using TableVector = flatbuffers::Vector<flatbuffers::Offset<Table>>;

constexpr flatbuffers::uoffset_t max_depth = 8;     // envelope, offer, header, id and one to spare
constexpr flatbuffers::uoffset_t max_tables = 512;  // StateInfo with 256 originators, or a header with 128 hops

class Decoder {
 public:
  Decoder(const NodeId& from, const NodeId& self) : from_(from), self_(self) {}

  Result<Message> run(const fbs::Envelope& envelope) {
    Result<Message> out = body(envelope);
    if (wrong_ != nullptr) {
      return fail(ErrorCode::bad_input, std::string("control frame ") + fbs::EnumNameMessage(envelope.message_type()) +
                                            ": '" + wrong_ + "' is missing or out of bounds");
    }
    return out;
  }

 private:
  // ---- fields
  void require(bool holds, const char* field) {
    if (!holds && wrong_ == nullptr) wrong_ = field;
  }
  template <typename T>
  T within(T value, T low, T high, const char* field) {
    require(value >= low && value <= high, field);
    return value;
  }
  template <typename Enum>
  Enum named(std::uint8_t value, Enum last, const char* field) {
    require(value <= static_cast<std::uint8_t>(last), field);
    return static_cast<Enum>(value);
  }
  template <std::size_t N>
  std::array<std::byte, N> exactly(const ByteVector* in, const char* field) {
    std::array<std::byte, N> out{};
    if (in == nullptr || in->size() != N) {
      require(false, field);
    } else {
      std::memcpy(out.data(), in->data(), N);
    }
    return out;
  }
  Bytes at_most(const ByteVector* in, std::size_t limit, const char* field) {
    if (in == nullptr || in->size() == 0 || in->size() > limit) {
      require(false, field);
      return {};
    }
    const auto* p = reinterpret_cast<const std::byte*>(in->data());
    return Bytes(p, p + in->size());
  }
  template <typename Table>
  bool present(const Table* table, const char* field) {
    require(table != nullptr, field);
    return table != nullptr;
  }
  NodeId node(const ByteVector* in, const char* field) { return NodeId{exactly<32>(in, field)}; }
  Duration duration(std::int64_t nanoseconds, const char* field) {
    return Duration(within<std::int64_t>(nanoseconds, 0, max_wire_duration.count(), field));
  }
  Step step(std::int64_t value, const char* field) { return within<Step>(value, -1, max_step, field); }
  Round round(std::int64_t value) { return within<Round>(value, 0, max_step, "round"); }
  Stage stage(std::int32_t value) { return within<Stage>(value, 0, max_stages - 1, "stage"); }
  TransferId theirs(std::uint64_t boot, std::uint64_t counter) const { return {from_, boot, counter}; }
  TransferId ours(std::uint64_t boot, std::uint64_t counter) const { return {self_, boot, counter}; }
  Direction direction(std::uint8_t value) { return named(value, Direction::backward, "direction"); }

  DoneMark done_mark(const fbs::DoneMark* in) {
    if (!present(in, "done")) return {};
    return {in->boot(), step(in->step(), "done")};
  }
  std::vector<Update> updates(const TableVector<fbs::Update>* in) {
    std::vector<Update> out;
    if (in == nullptr) return out;
    require(in->size() <= max_updates, "updates");
    if (wrong_ != nullptr) return out;
    out.reserve(in->size());
    for (const fbs::Update* update : *in) {
      out.push_back({named(update->kind(), Update::Kind::suspicion, "updates.kind"),
                     at_most(update->bytes(), max_record_bytes, "updates.bytes")});
    }
    return out;
  }
  std::vector<Hop> hops(const TableVector<fbs::Hop>* in, const char* field) {
    std::vector<Hop> out;
    if (in == nullptr) return out;
    require(in->size() <= max_hops, field);
    if (wrong_ != nullptr) return out;
    out.reserve(in->size());
    for (const fbs::Hop* hop : *in) out.push_back({stage(hop->stage()), node(hop->peer(), field)});
    return out;
  }
  MicrobatchId microbatch(const fbs::MicrobatchId* in) {
    if (!present(in, "microbatch")) return {};
    return {node(in->originator(), "originator"), in->boot(), step(in->step(), "step"), in->index()};
  }
  ExchangeId exchange(const fbs::ExchangeId* in) {
    if (!present(in, "exchange")) return {};
    return {node(in->proposer(), "proposer"), in->boot(), in->counter()};
  }

  // ---- what an offer is about
  MicrobatchHeader about(const fbs::MicrobatchHeader& in) {
    MicrobatchHeader out;
    out.id = microbatch(in.id());
    out.direction = direction(in.direction());
    out.purpose = named(in.purpose(), Purpose::eval, "purpose");
    out.stage = stage(in.stage());
    out.made = hops(in.made(), "made");
    out.ahead = hops(in.ahead(), "ahead");
    out.bypassed = in.bypassed();
    if (out.made.size() < 64) require(out.bypassed >> out.made.size() == 0, "bypassed");
    out.age = duration(in.age(), "age");
    out.give_up_age = duration(in.give_up_age(), "give_up_age");
    if (in.borders() != nullptr) {
      require(in.borders()->size() <= max_borders, "borders");
      if (wrong_ == nullptr) out.borders.assign(in.borders()->begin(), in.borders()->end());
      // Rising and behind the first row, so that there is something between any two.
      const auto& rows = out.borders;
      const bool rising = std::adjacent_find(rows.begin(), rows.end(), std::greater_equal<>()) == rows.end() &&
                          (rows.empty() || rows.front() > 0);
      require(rising, "borders");
    }
    return out;
  }
  ExchangePart about(const fbs::ExchangePart& in) {
    return {exchange(in.exchange()), round(in.round()), stage(in.stage())};
  }
  StatePart about(const fbs::StatePart& in) {
    return {in.request(), stage(in.stage()), within<std::uint8_t>(in.part(), 0, 4, "part"),
            within<std::uint8_t>(in.encoding(), 0, 1, "encoding")};
  }
  BackupPart about(const fbs::BackupPart& in) {
    return {stage(in.stage()), step(in.step(), "step"), round(in.round())};
  }
  CheckpointPart about(const fbs::CheckpointPart& in) {
    require(in.adam_steps() >= 0, "adam_steps");
    return {stage(in.stage()),
            step(in.step(), "step"),
            round(in.round()),
            within<std::uint8_t>(in.part(), 0, 4, "part"),
            in.adam_steps(),
            within<std::int32_t>(in.replicas(), 1, 1 << 20, "replicas")};
  }
  About about(const fbs::Offer& in) {
    if (!present(in.about(), "about")) return {};
    switch (in.about_type()) {
      case fbs::About::MicrobatchHeader:
        return about(*in.about_as_MicrobatchHeader());
      case fbs::About::ExchangePart:
        return about(*in.about_as_ExchangePart());
      case fbs::About::StatePart:
        return about(*in.about_as_StatePart());
      case fbs::About::BackupPart:
        return about(*in.about_as_BackupPart());
      case fbs::About::MetricsText:
        return MetricsText{};
      case fbs::About::CheckpointPart:
        return about(*in.about_as_CheckpointPart());
      case fbs::About::NONE:
        break;
    }
    require(false, "about");
    return {};
  }

  // ---- messages
  Message read(const fbs::Ping& in) { return Ping{in.sequence(), done_mark(in.done()), updates(in.updates())}; }
  Message read(const fbs::Ack& in) {
    return Ack{in.sequence(), node(in.about(), "about"), done_mark(in.done()), updates(in.updates())};
  }
  Message read(const fbs::PingRequest& in) { return PingRequest{in.sequence(), node(in.target(), "target")}; }
  Message read(const fbs::ViewRequest& in) { return ViewRequest{within(in.page(), 0u, max_view_pages - 1, "page")}; }
  Message read(const fbs::ViewPage& in) {
    const auto pages = within(in.pages(), 1u, max_view_pages, "pages");
    return ViewPage{within(in.page(), 0u, pages - 1, "page"), pages, updates(in.updates())};
  }
  Message read(const fbs::Introduce& in) {
    return Introduce{at_most(in.certificate(), max_record_bytes, "certificate"),
                     at_most(in.record(), max_record_bytes, "record")};
  }
  Message read(const fbs::IntroduceAck& in) { return IntroduceAck{node(in.newcomer(), "newcomer")}; }
  Message read(const fbs::FinishRun& in) { return Finish{at_most(in.statement(), max_statement_bytes, "statement")}; }
  Message read(const fbs::Report& in) {
    Report out;
    out.file = named(in.file(), Report::File::events, "file");
    if (in.lines() == nullptr || in.lines()->size() > max_report_bytes) {
      require(false, "lines");
    } else {
      // These lines end up in a file that people look at in a terminal.
      const std::string_view lines = in.lines()->string_view();
      require(
          std::none_of(lines.begin(), lines.end(), [](char c) { return (c >= 0 && c < ' ' && c != '\n') || c == 127; }),
          "lines");
      out.lines = lines;
    }
    return out;
  }
  Message read(const fbs::Done& in) { return Done{in.boot(), step(in.step(), "step")}; }
  Message read(const fbs::Accepted& in) { return Accepted{ours(in.boot(), in.counter()), duration(in.eta(), "eta")}; }
  Message read(const fbs::Passed& in) { return Passed{microbatch(in.microbatch()), direction(in.direction())}; }
  Message read(const fbs::Ask& in) { return Ask{microbatch(in.microbatch()), direction(in.direction())}; }
  Message read(const fbs::AskAnswer& in) {
    return AskAnswer{named(in.state(), AskAnswer::State::unknown, "state"), microbatch(in.microbatch()),
                     direction(in.direction()), duration(in.eta(), "eta")};
  }
  Message read(const fbs::Abandon& in) {
    Abandon out{microbatch(in.microbatch())};
    require(out.microbatch.originator == from_, "originator");
    return out;
  }
  Message read(const fbs::Propose& in) {
    Propose out{exchange(in.exchange()), round(in.round()), stage(in.stage())};
    require(out.exchange.proposer == from_, "proposer");
    return out;
  }
  Message read(const fbs::Accept& in) { return Accept{exchange(in.exchange()), round(in.round())}; }
  Message read(const fbs::Decline& in) {
    return Decline{named(in.code(), Decline::Code::finished, "code"), exchange(in.exchange()), round(in.round())};
  }
  Message read(const fbs::Got& in) { return Got{exchange(in.exchange())}; }
  Message read(const fbs::StateRequest& in) {
    return StateRequest{named(in.source(), StateRequest::Source::backup, "source"), in.request(), stage(in.stage()),
                        within<std::uint8_t>(in.parts(), 0, 31, "parts")};
  }
  Message read(const fbs::StateInfo& in) {
    StateInfo out;
    out.request = in.request();
    out.stage = stage(in.stage());
    out.step = step(in.step(), "step");
    out.round = round(in.round());
    out.tau = duration(in.tau(), "tau");
    out.adam_steps = within<std::int64_t>(in.adam_steps(), 0, max_step, "adam_steps");
    out.parts = within<std::uint8_t>(in.parts(), 0, 31, "parts");
    out.closed_any = in.closed_any();
    out.gradient_norm = within(in.gradient_norm(), 0.0, std::numeric_limits<double>::max(), "gradient_norm");
    if (in.done() == nullptr) return out;
    require(in.done()->size() <= max_originators, "done");
    if (wrong_ != nullptr) return out;
    out.done.reserve(in.done()->size());
    for (const fbs::OriginatorDone* done : *in.done()) {
      out.done.emplace_back(node(done->id(), "done.id"), DoneMark{done->boot(), step(done->step(), "done.step")});
    }
    return out;
  }
  Message read(const fbs::Offer& in) {
    Offer out;
    out.transfer = theirs(in.boot(), in.counter());
    out.about = about(in);
    out.bytes = within<std::uint64_t>(in.bytes(), 0, max_transfer_bytes, "bytes");
    out.hash = exactly<16>(in.hash(), "hash");
    out.follows = within<std::uint64_t>(in.follows(), 0, out.bytes, "follows");
    return out;
  }
  Message read(const fbs::Pull& in) {
    const auto upto = within<std::uint64_t>(in.upto(), 1, max_transfer_bytes, "upto");
    return Pull{ours(in.boot(), in.counter()), within<std::uint64_t>(in.from(), 0, upto - 1, "from"), upto};
  }
  Message read(const fbs::Release& in) { return Release{ours(in.boot(), in.counter())}; }
  Message read(const fbs::Refuse& in) {
    return Refuse{ours(in.boot(), in.counter()), named(in.code(), RefuseCode::malformed, "code")};
  }
  Message read(const fbs::Credit& in) { return Credit{in.bytes()}; }

  Result<Message> body(const fbs::Envelope& envelope) {
    if (envelope.message() == nullptr) {
      require(false, "message");
      return Message{};
    }
    switch (envelope.message_type()) {
#define STARLING_WIRE_CASE(name) \
  case fbs::Message::name:       \
    return read(*envelope.message_as_##name())
      STARLING_WIRE_CASE(Ping);
      STARLING_WIRE_CASE(Ack);
      STARLING_WIRE_CASE(PingRequest);
      STARLING_WIRE_CASE(ViewRequest);
      STARLING_WIRE_CASE(ViewPage);
      STARLING_WIRE_CASE(Introduce);
      STARLING_WIRE_CASE(IntroduceAck);
      STARLING_WIRE_CASE(FinishRun);
      STARLING_WIRE_CASE(Report);
      STARLING_WIRE_CASE(Done);
      STARLING_WIRE_CASE(Accepted);
      STARLING_WIRE_CASE(Passed);
      STARLING_WIRE_CASE(Ask);
      STARLING_WIRE_CASE(AskAnswer);
      STARLING_WIRE_CASE(Abandon);
      STARLING_WIRE_CASE(Propose);
      STARLING_WIRE_CASE(Accept);
      STARLING_WIRE_CASE(Decline);
      STARLING_WIRE_CASE(Got);
      STARLING_WIRE_CASE(StateRequest);
      STARLING_WIRE_CASE(StateInfo);
      STARLING_WIRE_CASE(Offer);
      STARLING_WIRE_CASE(Pull);
      STARLING_WIRE_CASE(Release);
      STARLING_WIRE_CASE(Refuse);
      STARLING_WIRE_CASE(Credit);
#undef STARLING_WIRE_CASE
      case fbs::Message::NONE:
        break;
    }
    // The verifier lets a union of a type that this schema does not know pass unread.
    require(false, "message");
    return Message{};
  }

  const NodeId& from_;
  const NodeId& self_;
  const char* wrong_ = nullptr;
};

}  // namespace

Result<Message> decode(ByteView frame, const NodeId& from, const NodeId& self) {
  if (frame.size() > max_control_frame_bytes) return fail(ErrorCode::bad_input, "control frame: longer than allowed");
  // Numbers are read in place, and the verifier knows alignment only relative to the start.
  if (reinterpret_cast<std::uintptr_t>(frame.data()) % alignof(std::max_align_t) != 0) {
    const Bytes aligned(frame.begin(), frame.end());
    return decode(aligned, from, self);
  }
  const auto* data = reinterpret_cast<const std::uint8_t*>(frame.data());
  flatbuffers::Verifier verifier(data, frame.size(), max_depth, max_tables);
  if (!fbs::VerifyEnvelopeBuffer(verifier)) {
    return fail(ErrorCode::bad_input, "control frame: not a well-formed envelope");
  }
  const fbs::Envelope& envelope = *fbs::GetEnvelope(data);
  if (envelope.version() != 1) {
    return fail(ErrorCode::bad_input,
                "control frame: version " + std::to_string(envelope.version()) + ", but this program speaks version 1");
  }
  return Decoder(from, self).run(envelope);
}

}  // namespace starling::net
