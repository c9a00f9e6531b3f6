// Tokens that nobody gets in by, as the command says it. What needs a run that lives is in tests/e2e.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>

#include "gossip/base/real_env.h"
#include "gossip/net/token.h"
#include "launcher/join.h"

namespace starling::launcher {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(Join, ATokenThatHasExpiredIsAnErrorOfAuthenticationWithTheFix) {
  const net::NodeKey owner = net::NodeKey::generate();
  net::TokenFields fields;
  fields.run = net::make_run_id(owner.id(), net::random_bytes_256());
  fields.expiry = static_cast<std::int64_t>(RealClock().unix_seconds()) - 3600;
  fields.seeds.push_back({"tcp://127.0.0.1:1", owner.id()});
  const std::string token = net::create_token(owner, net::CurveKeyPair::generate(), fields);
  std::ostringstream out;
  std::ostringstream err;
  const std::vector<Command> commands{join_command()};
  EXPECT_EQ(run_command_line(commands, {"join", token}, {}, out, err), ExitCode::unreachable);
  EXPECT_THAT(err.str(), HasSubstr("expired"));
  EXPECT_THAT(err.str(), HasSubstr("ask the owner of the run for a new one"));
  EXPECT_THAT(err.str(), Not(HasSubstr(token.substr(20, 40)))) << "a token is a secret";
}

}  // namespace
}  // namespace starling::launcher
