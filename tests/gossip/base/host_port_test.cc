#include "gossip/base/host_port.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace starling {
namespace {

TEST(HostPort, ReadsNamesAndAddresses) {
  EXPECT_EQ(parse_host_port("127.0.0.1:9464").value(), (HostPort{"127.0.0.1", 9464}));
  EXPECT_EQ(parse_host_port("node-3.example.org:0").value(), (HostPort{"node-3.example.org", 0}));
  EXPECT_EQ(parse_host_port("[::1]:65535").value(), (HostPort{"::1", 65535}));
  EXPECT_EQ(parse_host_port("[fe80::1%eth0]:80").value(), (HostPort{"fe80::1%eth0", 80}));
}

TEST(HostPort, RefusesEverythingElseAndSaysWhatItExpected) {
  for (const char* text : {"",
                           ":",
                           ":80",
                           "host",
                           "host:",
                           "host:65536",
                           "host:-1",
                           "host:+1",
                           "host: 80",
                           "host:80 ",
                           "host:8o",
                           "host:080000000000000000000",
                           "::1:80",
                           "[::1]",
                           "[]:80",
                           "[host]:80",
                           "-host:80",
                           "ho st:80",
                           "host/path:80",
                           "host\n:80",
                           "tcp://host:80"}) {
    const auto parsed = parse_host_port(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::bad_config) << text;
    EXPECT_NE(parsed.error().message.find("expected host:port"), std::string::npos) << text;
  }
  EXPECT_FALSE(parse_host_port(std::string(254, 'a') + ":80"));
}

RC_GTEST_PROP(HostPort, NeverAcceptsWhatIsNoHost, (const std::string& text)) {
  const auto parsed = parse_host_port(text);
  if (parsed) RC_ASSERT(is_host(parsed->host));
}

}  // namespace
}  // namespace starling
