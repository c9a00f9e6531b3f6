#include "launcher/node_credentials.h"

#include <algorithm>
#include <utility>

namespace starling::launcher {
namespace {

constexpr std::size_t max_introduced = 4096;
constexpr std::int64_t certificate_seconds = 30LL * 24 * 3600;

net::Role net_role(membership::Role role) {
  return role == membership::Role::worker ? net::Role::worker : net::Role::observer;
}

}  // namespace

NodeCredentials::NodeCredentials(const net::NodeKey& key, net::JoinToken token, Bytes chain, std::string run_spec,
                                 const Clock& clock)
    : key_(key.clone()),
      token_(std::move(token)),
      trust_{token_.grant.run, token_.owner, {}},
      run_spec_(std::move(run_spec)),
      clock_(clock),
      signatures_(key_),
      self_(key.id()) {
  take_chain(std::move(chain));
}

void NodeCredentials::take_chain(Bytes chain) {
  const auto own = net::verify_chain(chain, trust_, clock_.unix_seconds());
  if (!own || own->subject != self_) return;  // an expired one is as good as none: the next admission gives another
  chain_ = std::move(chain);
  expiry_ = own->expiry;
  delegate_ = own->delegation == net::Delegation::may_admit;
}

bool NodeCredentials::vouches(const membership::Record& record) const {
  if (record.certificate.empty()) return introduced_.contains(record.id);
  const auto certificate = net::verify_chain(record.certificate, trust_, clock_.unix_seconds());
  return certificate && certificate->subject == record.id && certificate->name == record.name &&
         certificate->role == net_role(record.role);
}

Result<NodeId> NodeCredentials::member_of(ByteView certificate) {
  const auto verified = net::verify_chain(certificate, trust_, clock_.unix_seconds());
  if (!verified) return tl::unexpected(verified.error());
  if (introduced_.size() >= max_introduced) introduced_.erase(introduced_.begin());
  introduced_.insert(verified->subject);
  return verified->subject;
}

Bytes NodeCredentials::join_request(const NodeId& seed, const membership::Record& self, ByteView signed_record) const {
  const net::JoinRequest request{.node = self.id,
                                 .name = self.name,
                                 .has_data = self.has_data,
                                 .stage = no_stage,
                                 .record = Bytes(signed_record.begin(), signed_record.end())};
  return net::encode_join_request(request, token_.signed_grant, seed, key_);
}

Result<trainer::Credentials::Welcome> NodeCredentials::read_answer(ByteView frame) {
  auto answer = net::decode_join_answer(frame, token_, self_, clock_.unix_seconds());
  if (!answer) return tl::unexpected(answer.error());
  if (const auto* denial = std::get_if<net::JoinDenial>(&*answer)) {
    return fail(net::is_worth_retrying(denial->code) ? ErrorCode::unreachable : ErrorCode::unauthenticated,
                std::string(net::to_string(denial->code)) + ": " + denial->why);
  }
  auto& admission = std::get<net::JoinAdmission>(*answer);
  if (chain_.empty()) take_chain(std::move(admission.chain));
  const auto own = net::verify_chain(chain_, trust_, clock_.unix_seconds());
  if (!own) return tl::unexpected(own.error());
  run_spec_ = admission.run_spec;
  return Welcome{.certificate = chain_,
                 .name = own->name,
                 .stage = admission.stage,
                 .slot = admission.slot,
                 .records = std::move(admission.records),
                 .run_spec = run_spec_};
}

Result<trainer::Credentials::Knock> NodeCredentials::read_request(ByteView frame) {
  auto verified = net::decode_join_request(frame, self_, trust_, clock_.unix_seconds());
  if (!verified) return tl::unexpected(verified.error());
  const net::JoinRequest& request = verified->request;
  auto record = membership::decode_record(request.record, signatures_);
  if (!record) return tl::unexpected(record.error());
  if (record->id != request.node) return fail(ErrorCode::unauthenticated, "the record in the request is somebody else's");
  Knock knock;
  knock.record = request.record;
  knock.wish.id = request.node;
  knock.wish.name = request.name;
  knock.wish.has_data = request.has_data;
  knock.wish.role = record->role;
  if (net_role(record->role) != verified->grant.role && record->role != membership::Role::worker) {
    return fail(ErrorCode::unauthenticated, "the token is for another role");
  }
  const auto held = net::verify_chain(record->certificate, trust_, clock_.unix_seconds());
  if (held && held->subject == request.node && held->name == request.name) {
    knock.wish.certified = true;
    if (shown_.size() >= max_introduced) shown_.erase(shown_.begin());
    shown_[request.node] = record->certificate;
  }
  return knock;
}

Result<Bytes> NodeCredentials::issue(const membership::Admission::Grant& grant) {
  if (introduced_.size() >= max_introduced) introduced_.erase(introduced_.begin());
  introduced_.insert(grant.wish.id);
  if (const auto held = shown_.find(grant.wish.id); held != shown_.end() && grant.wish.certified) return held->second;
  if (chain_.size() != net::certificate_bytes) {
    return fail(ErrorCode::failed, "this node's certificate does not come from the owner itself, so it cannot admit");
  }
  const double now = clock_.unix_seconds();
  net::CertificateFields fields;
  fields.subject = grant.wish.id;
  fields.name = grant.wish.name;
  fields.role = net_role(grant.wish.role);
  fields.serial = static_cast<std::uint64_t>(now * 1000.0);
  fields.expiry = std::min(expiry_, static_cast<std::int64_t>(now) + certificate_seconds);
  return net::chain_of(net::issue_certificate(key_, trust_.run, fields), chain_);
}

Bytes NodeCredentials::answer(const membership::Admission::Grant& grant, ByteView certificate,
                              const std::vector<Bytes>& records) const {
  return net::encode_join_answer(net::JoinAdmission{.chain = Bytes(certificate.begin(), certificate.end()),
                                                    .run_spec = run_spec_,
                                                    .stage = grant.stage,
                                                    .slot = grant.slot,
                                                    .records = records});
}

Bytes NodeCredentials::denial(Denial code, const std::string& why) const {
  const auto refusal = [&] {
    switch (code) {
      case Denial::invalid: return net::JoinRefusal::token_invalid;
      case Denial::not_a_delegate: return net::JoinRefusal::not_a_delegate;
      case Denial::busy: return net::JoinRefusal::busy;
      case Denial::ended: return net::JoinRefusal::ended;
    }
    return net::JoinRefusal::busy;
  };
  return net::encode_join_answer(net::JoinDenial{refusal(), why});
}

bool NodeCredentials::owner_wishes_end(ByteView statement) const {
  return net::verify_finish(statement, trust_.run, trust_.owner).has_value();
}

}  // namespace starling::launcher
