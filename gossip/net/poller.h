// One epoll set for all that the loop thread waits for, with a callback per file descriptor.
//
// ZeroMQ's sockets take part through ZMQ_FD. That descriptor becomes readable when the socket has commands to look at,
// and is quiet again once they were looked at, by any call on the socket. So a callback must go on until the socket
// says EAGAIN, or ask to be called `again`; and whoever calls a socket outside its callback in a way that may leave
// news unread asks for `again` too. Before a socket was looked at for the first time its descriptor may stay quiet in
// spite of news, so each callback also runs once without being asked.
//
// Ready descriptors are served in the order of their rank: what keeps the node alive before what is bulky.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "gossip/base/error.h"
#include "gossip/base/time.h"

namespace starling::net {

class Poller {
 public:
  enum class Rank : std::uint8_t { wake, authentication, control, link, bulk, lobby };
  using Key = std::uint64_t;  // 0: none

  // Errors: io.
  static Result<std::unique_ptr<Poller>> open();
  ~Poller();
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  Key watch(int fd, Rank rank, std::function<void()> on_ready);
  // REQUIRES: the descriptor is still open. A key of 0 is ignored.
  void unwatch(Key key);
  // The callback of `key` runs in the next wait, which then does not wait.
  void again(Key key);

  // Waits for at most `timeout` (rounded up to milliseconds), then runs the callbacks of what is ready. Callbacks may
  // watch and unwatch.
  void wait(Duration timeout);

  // May be called by any thread: ends a wait.
  void wake() const;

 private:
  struct Source {
    int fd;
    std::function<void()> on_ready;
  };
  Poller(int epoll_fd, int wake_fd);

  int epoll_fd_;
  int wake_fd_;
  std::uint64_t last_number_ = 0;
  std::map<Key, Source> sources_;  // the rank stands in a key's top byte
  std::set<Key> again_;
  std::vector<Key> ready_;  // of the wait that runs; kept for its memory
  // A callback may unwatch itself, and lives on until it has returned.
  std::vector<std::map<Key, Source>::node_type> retired_;
};

}  // namespace starling::net
