#include "trainer/data/remote_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <httplib.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <map>
#include <memory>
#include <string>
#include <thread>

#include "gossip/base/random.h"
#include "tests/trainer/data/scratch_files.h"
#include "trainer/data/source.h"

namespace starling::trainer {
namespace {

using testing::HasSubstr;

// A key and a certificate for 127.0.0.1 that it signs itself.
struct SelfMade {
  SelfMade() {
    ::X509_gmtime_adj(X509_getm_notBefore(certificate), -60);
    ::X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    ::X509_set_version(certificate, 2);
    ::ASN1_INTEGER_set(::X509_get_serialNumber(certificate), 1);
    ::X509_set_pubkey(certificate, key);
    X509_NAME* const name = ::X509_get_subject_name(certificate);
    ::X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>("test"), -1, -1, 0);
    ::X509_set_issuer_name(certificate, name);
    X509_EXTENSION* const address = ::X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "IP:127.0.0.1");
    ::X509_add_ext(certificate, address, -1);
    ::X509_EXTENSION_free(address);
    EXPECT_GT(::X509_sign(certificate, key, ::EVP_sha256()), 0);
  }
  ~SelfMade() {
    ::X509_free(certificate);
    ::EVP_PKEY_free(key);
  }
  SelfMade(const SelfMade&) = delete;
  SelfMade& operator=(const SelfMade&) = delete;
  std::string pem() const {
    BIO* const to = ::BIO_new(::BIO_s_mem());
    ::PEM_write_bio_X509(to, certificate);
    char* text = nullptr;
    const long size = BIO_get_mem_data(to, &text);
    std::string out(text, static_cast<std::size_t>(size));
    ::BIO_free(to);
    return out;
  }
  X509* certificate = ::X509_new();
  EVP_PKEY* key = ::EVP_EC_gen("P-256");
};

// Serves files on loopback; what it does wrong can be chosen.
class Server {
 public:
  explicit Server(std::unique_ptr<httplib::Server> server = std::make_unique<httplib::Server>(),
                  std::string scheme = "http")
      : server_(std::move(server)), scheme_(std::move(scheme)) {
    server_->Get("/.*", [this](const httplib::Request& request, httplib::Response& response) {
      if (failures > 0) {
        --failures;
        response.status = 503;
        return;
      }
      const auto found = files.find(request.path);
      if (found == files.end()) {
        response.status = 404;
        return;
      }
      if (!etag.empty()) response.set_header("ETag", etag);
      if (!knows_ranges) const_cast<httplib::Request&>(request).ranges.clear();
      response.set_content(found->second, "application/octet-stream");
    });
    port_ = server_->bind_to_any_port("127.0.0.1");
    thread_ = std::thread([this] { server_->listen_after_bind(); });
    while (!server_->is_running()) std::this_thread::yield();
  }
  ~Server() {
    server_->stop();
    thread_.join();
  }
  std::string url(const std::string& path) const { return scheme_ + "://127.0.0.1:" + std::to_string(port_) + path; }

  // Not touched while a request is under way.
  std::map<std::string, std::string> files;
  std::string etag;
  bool knows_ranges = true;
  int failures = 0;

 private:
  std::unique_ptr<httplib::Server> server_;
  std::string scheme_;
  int port_ = 0;
  std::thread thread_;
};

class RemoteFileTest : public testing::Test {
 protected:
  std::shared_ptr<Downloads> downloads(DownloadConfig config = {}) { return *Downloads::create(std::move(config)); }
  std::string text(std::size_t bytes) {
    Stream stream(3);
    std::string out(bytes, ' ');
    for (char& c : out) c = static_cast<char>('a' + stream.below(26));
    return out;
  }
  std::string read(const ByteFile& file, std::int64_t offset, std::size_t count) {
    Bytes out(count);
    const Status ok = file.read(offset, out);
    return ok ? std::string(as_text(out)) : ok.error().message;
  }
  Server server_;
};

TEST_F(RemoteFileTest, ReadsAnyPart) {
  const std::string content = text(10'000);
  server_.files["/a.txt"] = content;
  const auto file = open_remote(server_.url("/a.txt"), downloads({.block_bytes = 1000, .cache_bytes = 5000}));
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ((*file)->size(), 10'000);
  EXPECT_EQ((*file)->distance(), ByteFile::Distance::far);
  EXPECT_EQ(read(**file, 0, 10), content.substr(0, 10));
  EXPECT_EQ(read(**file, 995, 2010), content.substr(995, 2010));
  EXPECT_EQ(read(**file, 9990, 10), content.substr(9990));
  EXPECT_EQ(read(**file, 0, 10'000), content);
}

TEST_F(RemoteFileTest, TheCacheIsBoundedAndKeepsWhatWasUsedLast) {
  server_.files["/a.txt"] = text(10'500);
  const auto cache = downloads({.block_bytes = 1000, .cache_bytes = 3000});
  const auto file = *open_remote(server_.url("/a.txt"), cache);
  const auto fetched = [&](std::int64_t block) {
    const std::int64_t before = cache->requests();
    EXPECT_EQ(read(*file, block * 1000 + 5, 20).size(), 20u);
    EXPECT_LE(cache->cached_bytes(), 3000u);
    return cache->requests() - before;
  };
  EXPECT_EQ(fetched(0), 1);
  EXPECT_EQ(fetched(0), 0);
  EXPECT_EQ(fetched(1), 1);
  EXPECT_EQ(fetched(2), 1);
  EXPECT_EQ(fetched(0), 0);
  EXPECT_EQ(fetched(3), 1);  // in the place of 1
  EXPECT_EQ(fetched(0), 0);
  EXPECT_EQ(fetched(1), 1);
  EXPECT_EQ(fetched(10), 1);  // the short one at the end
}

TEST_F(RemoteFileTest, AFailureIsTriedAgainAFewTimes) {
  server_.files["/a.txt"] = text(5000);
  server_.failures = 2;
  const auto file = open_remote(server_.url("/a.txt"), downloads());
  ASSERT_TRUE(file) << file.error().message;
  server_.failures = 3;
  EXPECT_THAT(read(**file, 0, 10), HasSubstr("a.txt: cannot be fetched: the server answers with status 503"));
  EXPECT_EQ(read(**file, 0, 10).size(), 10u);  // and later it is there
}

TEST_F(RemoteFileTest, WhatCannotBeReadInPartsIsRefused) {
  server_.files["/a.txt"] = text(5000);
  server_.files["/empty"] = "";
  EXPECT_EQ(open_remote(server_.url("/gone"), downloads()).error().code, ErrorCode::not_found);
  EXPECT_FALSE(open_remote(server_.url("/empty"), downloads()));
  server_.knows_ranges = false;
  EXPECT_THAT(open_remote(server_.url("/a.txt"), downloads()).error().message,
              HasSubstr("expected a server that can send parts"));
  const auto nobody = open_remote("http://127.0.0.1:1/a.txt", downloads());
  EXPECT_EQ(nobody.error().code, ErrorCode::unreachable);
  for (const char* url : {"http://example.org/a.bin", "http://localhost.example.org/a",
                          "http://127.0.0.1@example.org/a", "http://[::2]/a"}) {
    EXPECT_THAT(open_remote(url, downloads()).error().message, HasSubstr("expected https")) << url;
  }
}

TEST_F(RemoteFileTest, AFileThatChangesIsRefused) {
  server_.files["/a.txt"] = text(5000);
  server_.etag = "\"one\"";
  const auto file = *open_remote(server_.url("/a.txt"), downloads({.block_bytes = 100, .cache_bytes = 1000}));
  EXPECT_EQ(read(*file, 0, 10).size(), 10u);
  server_.etag = "\"two\"";
  EXPECT_THAT(read(*file, 200, 10), HasSubstr("the file has changed while it was read"));
  server_.etag = "\"one\"";
  server_.files["/a.txt"] = text(4000);
  EXPECT_THAT(read(*file, 300, 10), HasSubstr("the file has changed while it was read"));
}

TEST_F(RemoteFileTest, OnlyATrustedCertificateIsBelieved) {
  const SelfMade made;
  const ScratchFolder folder;
  Server server(std::make_unique<httplib::SSLServer>(made.certificate, made.key), "https");
  server.files["/a.txt"] = text(5000);
  const auto refused = open_remote(server.url("/a.txt"), downloads());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::unreachable);
  EXPECT_THAT(refused.error().message, HasSubstr("certificate"));
  const auto file = open_remote(server.url("/a.txt"), downloads({.certificates = folder.write("ca.pem", made.pem())}));
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(read(**file, 1000, 50), server.files["/a.txt"].substr(1000, 50));
}

// A source whose shards lie elsewhere gives the samples of one whose shards lie here.
TEST_F(RemoteFileTest, SamplesAreTheSameAsFromTheDisk) {
  const ScratchFolder folder;
  std::vector<std::uint16_t> ids(20'000);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::uint16_t>(i * 7 % 500);
  const std::string shard = llmc_shard(ids, 20'000);
  server_.files["/a.bin"] = shard;
  server_.files["/b.bin"] = raw_ids(ids);
  const BatchShape shape{.sequences = 2, .seq_len = 16};
  const auto far = Source::open({.train = {server_.url("/a.bin"), server_.url("/b.bin?x=*")}, .val = {}}, shape, 500);
  const auto here = Source::open(
      {.train = {folder.write("a.bin", shard), folder.write("b.bin", raw_ids(ids))}, .val = {}}, shape, 500);
  ASSERT_TRUE(far) << far.error().message;
  ASSERT_TRUE(here) << here.error().message;
  for (std::uint32_t index = 0; index < 50; ++index)
    EXPECT_EQ(*far->sample(1, 0, 3, index), *here->sample(1, 0, 3, index));
  EXPECT_EQ(*far->validation(2), *here->validation(2));

  // An id that the model does not have is found when it is read.
  const auto narrow = Source::open({.train = {server_.url("/a.bin")}, .val = {}}, shape, 499);
  ASSERT_TRUE(narrow);
  Error found;
  for (std::uint32_t index = 0; index < 200; ++index) {
    if (const auto sample = narrow->sample(1, 0, 1, index); !sample) found = sample.error();
  }
  EXPECT_THAT(found.message, HasSubstr("/a.bin: token "));
  EXPECT_THAT(found.message, HasSubstr("has id 499, but model.vocab_size is 499"));
}

}  // namespace
}  // namespace starling::trainer
