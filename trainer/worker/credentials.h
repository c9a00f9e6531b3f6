// What a worker needs of keys and certificates, without seeing any: the seam between its decisions and cryptography.
//
// The real one stands on gossip/net (Ed25519, certificates, tokens); the simulated world has one that costs nothing.
// Loop thread only.
#pragma once

#include <string>
#include <vector>

#include "gossip/base/bytes.h"
#include "gossip/base/error.h"
#include "gossip/base/ids.h"
#include "gossip/membership/admission.h"
#include "gossip/membership/record.h"

namespace starling::trainer {

class Credentials {
 public:
  // A lobby request that holds: who asks, as what.
  struct Knock {
    membership::Admission::Wish wish;
    Bytes record;                       // the asker's first signed record
  };
  // A lobby answer that lets us in.
  struct Welcome {
    Bytes certificate;                  // our chain from now on
    std::string name;                   // as it stands in the certificate
    Stage stage = no_stage;
    Slot slot = no_slot;
    std::vector<Bytes> records;         // signed records of active members
    std::string run_spec;               // the run file, as its owner signed it
  };

  virtual ~Credentials() = default;

  virtual const membership::Signatures& signatures() const = 0;
  // Whether the record's certificate makes its id a member of this run under that name and role. A first record has none
  // yet: then whether somebody introduced its id.
  virtual bool vouches(const membership::Record& record) const = 0;
  // Whom this chain makes a member; remembered for vouches(). Errors: unauthenticated.
  virtual Result<NodeId> member_of(ByteView certificate) = 0;

  // ---- a newcomer
  virtual Bytes join_request(const NodeId& seed, const membership::Record& self, ByteView signed_record) const = 0;
  // Errors: unauthenticated, unreachable (worth another try), bad_input.
  virtual Result<Welcome> read_answer(ByteView frame) = 0;

  // ---- a delegate
  virtual bool may_admit() const = 0;
  virtual Result<Knock> read_request(ByteView frame) = 0;
  // The newcomer's certificate chain. Errors: failed.
  virtual Result<Bytes> issue(const membership::Admission::Grant& grant) = 0;
  virtual Bytes answer(const membership::Admission::Grant& grant, ByteView certificate,
                       const std::vector<Bytes>& records) const = 0;
  enum class Denial { invalid, not_a_delegate, busy, ended };
  virtual Bytes denial(Denial code, const std::string& why) const = 0;

  // Whether the owner signed this wish to end the run.
  virtual bool owner_wishes_end(ByteView statement) const = 0;
};

}  // namespace starling::trainer
