#include "gossip/base/ids.h"

#include <cstring>

namespace starling {

Result<NodeId> node_id_from_hex(std::string_view text) {
  auto bytes = from_hex(text);
  NodeId id;
  if (!bytes || bytes->size() != id.key.size()) {
    return fail(ErrorCode::bad_input, "a node id is 64 hex digits, got '" + std::string(text.substr(0, 80)) + "'");
  }
  std::memcpy(id.key.data(), bytes->data(), id.key.size());
  return id;
}

std::string to_string(const MicrobatchId& id) {
  return id.originator.brief() + "/" + std::to_string(id.boot) + "/" + std::to_string(id.step) + "/" +
         std::to_string(id.index);
}

std::string to_string(const ExchangeId& id) {
  return id.proposer.brief() + "/" + std::to_string(id.boot) + "/x" + std::to_string(id.counter);
}

std::string to_string(const TransferId& id) {
  return id.sender.brief() + "/" + std::to_string(id.boot) + "/t" + std::to_string(id.counter);
}

}  // namespace starling
