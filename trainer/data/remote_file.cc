#include "trainer/data/remote_file.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <vector>

#include "gossip/base/printable.h"

namespace starling::trainer {
namespace {

constexpr std::size_t max_shown_bytes = 200;
constexpr long max_redirects = 5;

template <typename T>
std::optional<T> number(std::string_view text) {
  T out{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), out);
  if (failure != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == '\r' || text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  return text;
}

// The host of a URL, without user, port and path.
std::string_view host_of(std::string_view url) {
  url.remove_prefix(url.find("://") + 3);
  std::string_view host = url.substr(0, url.find_first_of("/?#"));
  if (const std::size_t user = host.rfind('@'); user != std::string_view::npos) host.remove_prefix(user + 1);
  if (host.starts_with('[')) return host.substr(0, std::min(host.find(']'), host.size() - 1) + 1);
  return host.substr(0, host.find(':'));
}

bool is_this_machine(std::string_view host) { return host == "localhost" || host == "127.0.0.1" || host == "[::1]"; }

tl::unexpected<Error> failed(const std::string& url, ErrorCode code, const std::string& why) {
  return fail(code, fmt::format("{}: {}", printable(url, max_shown_bytes), why));
}

class RemoteFile : public ByteFile {
 public:
  RemoteFile(std::string url, Downloads::Version version, std::shared_ptr<Downloads> downloads)
      : url_(std::move(url)), version_(std::move(version)), downloads_(std::move(downloads)) {}
  const std::string& name() const override { return url_; }
  std::int64_t size() const override { return version_.bytes; }
  Distance distance() const override { return Distance::far; }
  Status read(std::int64_t offset, std::span<std::byte> out) const override {
    return downloads_->read(url_, version_, offset, out);
  }

 private:
  std::string url_;
  Downloads::Version version_;
  std::shared_ptr<Downloads> downloads_;
};

}  // namespace

bool is_url(std::string_view path) { return path.starts_with("https://") || path.starts_with("http://"); }

struct Downloads::Handle {
  CURL* curl = nullptr;
  ~Handle() {
    if (curl != nullptr) curl_easy_cleanup(curl);
  }
};

// What a server said to one request.
struct Downloads::Answer {
  Bytes body;
  std::size_t most = 0;  // bytes of the body that are wanted; more ends the transfer
  long status = 0;
  std::string content_range;  // "bytes 0-65535/1000000"
  std::string etag;

  // The whole length that Content-Range names; nothing unless it is about bytes `first` to `last`.
  std::optional<std::int64_t> total(std::int64_t first, std::int64_t last) const {
    const std::string_view text = content_range;
    const std::size_t slash = text.find('/');
    if (slash == std::string_view::npos) return std::nullopt;
    if (text.substr(0, slash) != fmt::format("bytes {}-{}", first, last)) return std::nullopt;
    return number<std::int64_t>(text.substr(slash + 1));
  }
};

Downloads::Downloads(DownloadConfig config) : config_(std::move(config)), handle_(std::make_unique<Handle>()) {}
Downloads::~Downloads() = default;

Result<std::shared_ptr<Downloads>> Downloads::create(DownloadConfig config) {
  STARLING_CHECK(config.block_bytes > 0 && config.cache_bytes >= config.block_bytes, "a cache holds a block");
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  std::shared_ptr<Downloads> out(new Downloads(std::move(config)));
  if (started == CURLE_OK) out->handle_->curl = curl_easy_init();
  if (out->handle_->curl == nullptr) return fail(ErrorCode::failed, "libcurl cannot start");
  return out;
}

// Bytes first .. last as the server gives them, at the first attempt that a server answers in full.
Result<Downloads::Answer> Downloads::fetch(const std::string& url, std::int64_t first, std::int64_t last) {
  CURL* const curl = handle_->curl;
  Answer answer;
  const auto on_body = +[](char* data, std::size_t, std::size_t size, void* to) -> std::size_t {
    auto& out = *static_cast<Answer*>(to);
    if (out.body.size() + size > out.most) return 0;  // a server that sends all of a file ends here
    const auto* bytes = reinterpret_cast<const std::byte*>(data);
    out.body.insert(out.body.end(), bytes, bytes + size);
    return size;
  };
  const auto on_header = +[](char* data, std::size_t, std::size_t size, void* to) -> std::size_t {
    auto& out = *static_cast<Answer*>(to);
    const std::string_view line(data, size);
    const std::size_t colon = line.find(':');
    if (line.starts_with("HTTP/")) out.content_range = out.etag = "";  // of an answer before: a redirect
    if (colon == std::string_view::npos) return size;
    std::string name(line.substr(0, colon));
    std::transform(name.begin(), name.end(), name.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
    if (name == "content-range") out.content_range = trimmed(line.substr(colon + 1));
    if (name == "etag") out.etag = trimmed(line.substr(colon + 1));
    return size;
  };
  std::string why;
  for (int attempt = 0; attempt < config_.attempts; ++attempt) {
    answer = {};
    answer.most = static_cast<std::size_t>(last - first + 1);
    curl_easy_reset(curl);  // settings, not the connection
    curl_easy_setopt(curl, CURLOPT_URL, url.c_str());
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, url.starts_with("https") ? "https" : "http");
    curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "https");
    curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(curl, CURLOPT_MAXREDIRS, max_redirects);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, config_.connect_seconds);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1024L);
    curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, config_.stall_seconds);
    if (!config_.certificates.empty()) curl_easy_setopt(curl, CURLOPT_CAINFO, config_.certificates.c_str());
    const std::string range = fmt::format("{}-{}", first, last);
    curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(curl, CURLOPT_WRITEDATA, &answer);
    curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(curl, CURLOPT_HEADERDATA, &answer);
    ++requests_;
    const CURLcode code = curl_easy_perform(curl);
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &answer.status);
    if (answer.status == 404 || answer.status == 410) {
      return failed(url, ErrorCode::not_found, "the server has no such file");
    }
    if (answer.status == 200) {
      return failed(url, ErrorCode::bad_input,
                    "expected a server that can send parts of a file, got one that sends all of "
                    "it; copy the file to this machine");
    }
    if (code == CURLE_OK && (answer.status == 206 || answer.status == 416)) return answer;
    why = code != CURLE_OK ? curl_easy_strerror(code) : fmt::format("the server answers with status {}", answer.status);
    // Another try changes nothing about a wrong certificate or a refusal.
    if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_URL_MALFORMAT)
      break;
    if (code == CURLE_OK && answer.status >= 400 && answer.status < 500 && answer.status != 429) break;
  }
  return failed(url, ErrorCode::unreachable, "cannot be fetched: " + why);
}

Result<Downloads::Version> Downloads::version(const std::string& url) {
  const auto answer = fetch(url, 0, 0);
  if (!answer) return tl::unexpected(answer.error());
  if (answer->status == 416) return failed(url, ErrorCode::bad_input, "the file is empty");
  const auto total = answer->total(0, 0);
  if (!total || *total < 1 || answer->body.size() != 1) {
    return failed(url, ErrorCode::bad_input,
                  fmt::format("expected Content-Range: bytes 0-0/LENGTH and one byte, got '{}' and {} bytes",
                              printable(answer->content_range, max_shown_bytes), answer->body.size()));
  }
  return Version{*total, answer->etag};
}

Result<const Bytes*> Downloads::block(const std::string& url, const Version& version, std::int64_t index) {
  const BlockName name{url, index};
  if (const auto known = blocks_.find(name); known != blocks_.end()) {
    by_age_.splice(by_age_.begin(), by_age_, known->second.age);
    return &known->second.bytes;
  }
  const auto size = static_cast<std::int64_t>(config_.block_bytes);
  const std::int64_t first = index * size;
  const std::int64_t last = std::min(first + size, version.bytes) - 1;
  auto answer = fetch(url, first, last);
  if (!answer) return tl::unexpected(answer.error());
  const auto total = answer->total(first, last);
  if (answer->status == 416 || total != version.bytes || answer->etag != version.etag) {
    return failed(
        url, ErrorCode::bad_input,
        fmt::format("the file has changed while it was read: expected {} bytes, ETag '{}', got '{}', ETag '{}'",
                    version.bytes, printable(version.etag, max_shown_bytes),
                    printable(answer->content_range, max_shown_bytes), printable(answer->etag, max_shown_bytes)));
  }
  if (answer->body.size() != static_cast<std::size_t>(last - first + 1)) {
    return failed(url, ErrorCode::unreachable, "the server sent fewer bytes than it announced");
  }
  while (cached_bytes_ + answer->body.size() > config_.cache_bytes) {
    const auto oldest = blocks_.find(by_age_.back());
    cached_bytes_ -= oldest->second.bytes.size();
    blocks_.erase(oldest);
    by_age_.pop_back();
  }
  cached_bytes_ += answer->body.size();
  by_age_.push_front(name);
  return &blocks_.emplace(name, Block{std::move(answer->body), by_age_.begin()}).first->second.bytes;
}

Status Downloads::read(const std::string& url, const Version& version, std::int64_t offset, std::span<std::byte> out) {
  const auto size = static_cast<std::int64_t>(config_.block_bytes);
  while (!out.empty()) {
    const auto bytes = block(url, version, offset / size);
    if (!bytes) return tl::unexpected(bytes.error());
    const auto from = std::span(**bytes).subspan(static_cast<std::size_t>(offset % size));
    const std::size_t count = std::min(from.size(), out.size());
    std::copy_n(from.begin(), count, out.begin());
    out = out.subspan(count);
    offset += static_cast<std::int64_t>(count);
  }
  return {};
}

Result<std::shared_ptr<const ByteFile>> open_remote(const std::string& url, std::shared_ptr<Downloads> downloads) {
  if (url.starts_with("http://") && !is_this_machine(host_of(url))) {
    return failed(url, ErrorCode::bad_config,
                  "expected https, since anybody on the way can change what comes by http; write https://");
  }
  auto version = downloads->version(url);
  if (!version) return tl::unexpected(version.error());
  return std::make_shared<const RemoteFile>(url, std::move(*version), std::move(downloads));
}

}  // namespace starling::trainer
