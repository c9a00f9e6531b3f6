#include "gossip/net/poller.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>

namespace starling::net {

Result<std::unique_ptr<Poller>> Poller::open() {
  const int epoll_fd = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) return fail(ErrorCode::io, std::string("cannot make an epoll set: ") + std::strerror(errno));
  const int wake_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd < 0) {
    const int code = errno;
    ::close(epoll_fd);
    return fail(ErrorCode::io, std::string("cannot make an eventfd: ") + std::strerror(code));
  }
  return std::unique_ptr<Poller>(new Poller(epoll_fd, wake_fd));
}

Poller::Poller(int epoll_fd, int wake_fd) : epoll_fd_(epoll_fd), wake_fd_(wake_fd) {
  watch(wake_fd_, Rank::wake, [this] {
    std::uint64_t count = 0;
    // Nothing to do on failure: the descriptor only wakes, it carries no news.
    [[maybe_unused]] const ssize_t n = ::read(wake_fd_, &count, sizeof count);
  });
}

Poller::~Poller() {
  ::close(wake_fd_);
  ::close(epoll_fd_);
}

Poller::Key Poller::watch(int fd, Rank rank, std::function<void()> on_ready) {
  const Key key = (static_cast<Key>(rank) << 56) | ++last_number_;
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = key;
  STARLING_CHECK(::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) == 0,
                 "only open descriptors are watched, once each");
  sources_.emplace(key, Source{fd, std::move(on_ready)});
  again_.insert(key);
  return key;
}

void Poller::unwatch(Key key) {
  const auto source = sources_.find(key);
  if (source == sources_.end()) return;
  epoll_event ignored{};
  ::epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, source->second.fd, &ignored);
  retired_.push_back(sources_.extract(source));
  again_.erase(key);
}

void Poller::again(Key key) {
  if (key != 0) again_.insert(key);
}

void Poller::wait(Duration timeout) {
  using std::chrono::milliseconds;
  const Duration patience =
      again_.empty() ? std::clamp(timeout, Duration::zero(), Duration(std::chrono::hours(1))) : Duration::zero();
  std::array<epoll_event, 256> events{};
  const int count = ::epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()),
                                 static_cast<int>(std::chrono::ceil<milliseconds>(patience).count()));
  STARLING_CHECK(count >= 0 || errno == EINTR, "epoll_wait fails for nothing but a signal");
  ready_.assign(again_.begin(), again_.end());
  again_.clear();
  for (int i = 0; i < count; ++i) ready_.push_back(events[static_cast<std::size_t>(i)].data.u64);
  std::sort(ready_.begin(), ready_.end());
  ready_.erase(std::unique(ready_.begin(), ready_.end()), ready_.end());
  for (const Key key : ready_) {
    const auto source = sources_.find(key);
    if (source == sources_.end()) continue;  // unwatched by a callback before it
    source->second.on_ready();
  }
  retired_.clear();
}

void Poller::wake() const {
  const std::uint64_t one = 1;
  // A full counter wakes as well.
  [[maybe_unused]] const ssize_t n = ::write(wake_fd_, &one, sizeof one);
}

}  // namespace starling::net
