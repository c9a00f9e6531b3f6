#include "launcher/run_keys.h"

#include <utility>

#include "gossip/base/real_env.h"
#include "launcher/config_yaml.h"

namespace starling::launcher {
namespace {

constexpr std::int64_t token_seconds = 7LL * 24 * 3600;
constexpr std::int64_t delegate_seconds = 90LL * 24 * 3600;
constexpr std::uint64_t most_file_bytes = 1 << 20;
constexpr std::string_view owner_key_file = "owner.key";

Bytes delegate_certificate(const RunKeys& run, const NodeId& subject, const std::string& name, net::Role role,
                           double unix_seconds) {
  net::CertificateFields fields;
  fields.subject = subject;
  fields.name = name;
  fields.role = role;
  fields.delegation = net::Delegation::may_admit;
  fields.serial = static_cast<std::uint64_t>(unix_seconds * 1000.0);
  fields.expiry = static_cast<std::int64_t>(unix_seconds) + delegate_seconds;
  return net::issue_certificate(run.owner, run.run, fields);
}

}  // namespace

Result<RunKeys> found_run(const RunDirectory& directory, const RunConfig& config) {
  net::NodeKey owner = net::NodeKey::generate();
  const RunId run = net::make_run_id(owner.id(), net::random_bytes_256());
  RealStorage secrets(directory.observer());
  if (auto kept = net::save_key(secrets, owner_key_file, owner); !kept) return tl::unexpected(kept.error());
  if (auto kept = net::create_identity(secrets, net::NodeKey::generate(), {}); !kept)
    return tl::unexpected(kept.error());
  const std::string file = resolved_file(config);
  if (auto kept = replace_file(directory.run_yaml(), as_bytes(file)); !kept) return tl::unexpected(kept.error());
  return RunKeys{std::move(owner), run, net::CurveKeyPair::generate(), run_spec(config)};
}

Result<KeptRun> read_run(const RunDirectory& directory) {
  RealStorage secrets(directory.observer());
  auto owner = net::load_key(secrets, owner_key_file);
  if (!owner) return tl::unexpected(owner.error());
  const auto file = read_file(directory.run_yaml(), most_file_bytes);
  if (!file) return tl::unexpected(file.error());
  auto config = read_resolved_file(as_text(*file));
  if (!config) return tl::unexpected(config.error());
  const auto line = read_file(directory.token(), most_file_bytes);
  if (!line) return tl::unexpected(line.error());
  // Our own token, read for what it holds: whether it has expired is no matter, so its time is not asked.
  auto token = net::parse_token(as_text(*line), 0.0);
  if (!token) return fail(ErrorCode::bad_input, "'" + directory.token().string() + "': " + token.error().message);
  std::string spec = run_spec(*config);
  if (token->owner != owner->id() || token->spec_hash != blake2b_256(as_bytes(spec))) {
    return fail(ErrorCode::bad_input, "owner.key, join.token and run.yaml in '" + directory.path.string() +
                                          "' are not of one run; put back those that were there");
  }
  std::string text(as_text(*line));
  text.erase(text.find_last_not_of(" \t\r\n") + 1);
  return KeptRun{.keys = {std::move(*owner), token->grant.run, std::move(token->lobby_key), std::move(spec)},
                 .config = std::move(*config),
                 .token = {std::move(text), std::move(token->seeds), token->grant.expiry}};
}

Bytes certify_observer(const RunKeys& run, const NodeId& observer, double unix_seconds) {
  return delegate_certificate(run, observer, "observer", net::Role::observer, unix_seconds);
}

Status make_worker_identity(const RunDirectory& directory, const RunKeys& run, const std::string& name,
                            double unix_seconds) {
  RealStorage folder(directory.worker(name));
  const net::NodeKey key = net::NodeKey::generate();
  return net::create_identity(folder, key, delegate_certificate(run, key.id(), name, net::Role::worker, unix_seconds));
}

Result<std::string> issue_token(const RunDirectory& directory, const RunKeys& run, std::vector<net::Seed> seeds,
                                double unix_seconds) {
  net::TokenFields fields;
  fields.run = run.run;
  fields.role = net::Role::worker;
  fields.expiry = static_cast<std::int64_t>(unix_seconds) + token_seconds;
  fields.spec_hash = blake2b_256(as_bytes(run.spec));
  fields.seeds = std::move(seeds);
  std::string token = net::create_token(run.owner, run.lobby_key, fields);
  if (auto kept = replace_file(directory.token(), as_bytes(token + "\n"), FileMode::secret); !kept) {
    return tl::unexpected(kept.error());
  }
  return token;
}

}  // namespace starling::launcher
