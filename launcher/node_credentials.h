// A worker's keys and certificates, for real: Ed25519 and the run's owner behind the seam of trainer/worker/credentials.h.
#pragma once

#include <map>
#include <set>
#include <string>

#include "gossip/base/env.h"
#include "gossip/membership/key_signatures.h"
#include "gossip/net/certificate.h"
#include "gossip/net/identity.h"
#include "gossip/net/token.h"
#include "trainer/worker/credentials.h"

namespace starling::launcher {

class NodeCredentials final : public trainer::Credentials {
 public:
  // `token`: how this node got in, or how others may; `chain`: its own certificate, empty for a newcomer; `run_spec`: what
  // it tells those whom it admits, empty until it is known. `clock` outlives it.
  NodeCredentials(const net::NodeKey& key, net::JoinToken token, Bytes chain, std::string run_spec, const Clock& clock);

  const membership::Signatures& signatures() const override { return signatures_; }
  bool vouches(const membership::Record& record) const override;
  Result<NodeId> member_of(ByteView certificate) override;
  Bytes join_request(const NodeId& seed, const membership::Record& self, ByteView signed_record) const override;
  Result<Welcome> read_answer(ByteView frame) override;
  bool may_admit() const override { return delegate_; }
  Result<Knock> read_request(ByteView frame) override;
  Result<Bytes> issue(const membership::Admission::Grant& grant) override;
  Bytes answer(const membership::Admission::Grant& grant, ByteView certificate,
               const std::vector<Bytes>& records) const override;
  Bytes denial(Denial code, const std::string& why) const override;
  bool owner_wishes_end(ByteView statement) const override;

  const Bytes& chain() const { return chain_; }

 private:
  void take_chain(Bytes chain);

  net::NodeKey key_;
  net::JoinToken token_;
  net::Trust trust_;
  Bytes chain_;
  std::string run_spec_;
  const Clock& clock_;
  membership::KeySignatures signatures_;
  bool delegate_ = false;
  std::int64_t expiry_ = 0;                 // of our own certificate: what we issue ends no later
  NodeId self_;
  std::set<NodeId> introduced_;             // members whose records have no certificate yet; at most max_introduced
  std::map<NodeId, Bytes> shown_;           // chains that askers hold already
};

}  // namespace starling::launcher
