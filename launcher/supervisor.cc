#include "launcher/supervisor.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

extern "C" {
#include <sys/pidfd.h>  // glibc 2.36 has no linkage for C++ there
}

#include "launcher/run_directory.h"

namespace starling::launcher {
namespace {

// Whether process `pid` is a worker that was started with --dir `folder`: a number alone may be somebody else's by now.
bool is_worker_of(pid_t pid, const std::filesystem::path& folder) {
  std::ifstream in(fmt::format("/proc/{}/cmdline", pid), std::ios::binary);
  const std::string line{std::istreambuf_iterator<char>(in), {}};
  std::vector<std::string> words;
  for (std::size_t at = 0; at < line.size();) {
    words.emplace_back(line.c_str() + at);
    at += words.back().size() + 1;
  }
  const auto dir = std::find(words.begin(), words.end(), "--dir");
  return words.size() > 1 && words[1] == "join" && dir != words.end() && std::next(dir) != words.end() &&
         std::filesystem::path(*std::next(dir)).lexically_normal() == folder.lexically_normal();
}

// A pidfd of the worker of `folder`, or -1. The pidfd comes first: once it is open, it is the process that was looked at.
int open_worker(const std::filesystem::path& folder) {
  const auto file = read_worker_file(folder);
  if (!file || file->exit_code || file->pid <= 1) return -1;
  const auto pid = static_cast<pid_t>(file->pid);
  const int fd = ::pidfd_open(pid, 0);
  if (fd >= 0 && !is_worker_of(pid, folder)) {
    ::close(fd);
    errno = ESRCH;
    return -1;
  }
  return fd;
}

}  // namespace

Supervisor::Process::Process(Process&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

Supervisor::Process::~Process() {
  if (fd_ >= 0) ::close(fd_);
}

bool Supervisor::Process::has_ended() const {
  pollfd end{fd_, POLLIN, 0};
  return ::poll(&end, 1, 0) == 1;
}

Status Supervisor::Process::send_signal(int signal) const {
  if (::pidfd_send_signal(fd_, signal, nullptr, 0) != 0) return fail(ErrorCode::io, std::strerror(errno));
  return {};
}

Status Supervisor::start(const std::string& name, const std::vector<std::string>& arguments,
                         const std::filesystem::path& folder) {
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  const std::filesystem::path log = folder / "output.txt";
  std::string self = "/proc/self/exe";
  std::vector<char*> argv{self.data()};
  std::vector<std::string> copies = arguments;
  for (std::string& argument : copies) argv.push_back(argument.data());
  argv.push_back(nullptr);
  const int in = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int out = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (in < 0 || out < 0) {
    const std::string why = std::strerror(errno);
    if (in >= 0) ::close(in);
    if (out >= 0) ::close(out);
    return fail(ErrorCode::io, "cannot write '" + log.string() + "': " + why);
  }
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setsid();
    ::dup2(in, STDIN_FILENO);
    ::dup2(out, STDOUT_FILENO);
    ::dup2(out, STDERR_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  const int code = errno;
  ::close(in);
  ::close(out);
  if (pid < 0) return fail(ErrorCode::io, "cannot start worker '" + name + "': " + std::strerror(code));
  children_[name] = pid;
  return {};
}

Status Supervisor::adopt(const std::string& name, const std::filesystem::path& folder) {
  const int fd = open_worker(folder);
  if (fd < 0) return fail(ErrorCode::not_found, "no process of worker '" + name + "' lives");
  adopted_.emplace(name, Adopted{Process(fd), folder});
  return {};
}

std::vector<Supervisor::Ended> Supervisor::reap() {
  std::vector<Ended> ended;
  const auto with_code = [&](const std::string& name, int code) {
    ended.push_back({name, fmt::format("ended with exit code {}", code), code == 0});
  };
  for (auto it = children_.begin(); it != children_.end();) {
    int status = 0;
    if (::waitpid(it->second, &status, WNOHANG) != it->second) {
      ++it;
      continue;
    }
    if (WIFEXITED(status)) {
      with_code(it->first, WEXITSTATUS(status));
    } else {
      ended.push_back({it->first, fmt::format("was ended by signal {}", WTERMSIG(status))});
    }
    it = children_.erase(it);
  }
  for (auto it = adopted_.begin(); it != adopted_.end();) {
    if (!it->second.process.has_ended()) {
      ++it;
      continue;
    }
    // Only its parent hears how a process ended; but a worker writes down how it ends.
    const auto file = read_worker_file(it->second.folder);
    if (file && file->exit_code) {
      with_code(it->first, *file->exit_code);
    } else {
      ended.push_back({it->first, "ended without a word"});
    }
    it = adopted_.erase(it);
  }
  return ended;
}

Status Supervisor::send_signal(const std::string& name, int signal) {
  if (const auto adopted = adopted_.find(name); adopted != adopted_.end()) {
    return adopted->second.process.send_signal(signal);
  }
  const auto it = children_.find(name);
  if (it == children_.end()) return fail(ErrorCode::not_found, "worker '" + name + "' does not run here");
  if (::kill(it->second, signal) != 0) return fail(ErrorCode::io, std::strerror(errno));
  return {};
}

void Supervisor::kill_rest() {
  for (const std::string& name : running()) (void)send_signal(name, SIGKILL);  // one that has just ended needs none
  for (const auto& [name, pid] : children_) ::waitpid(pid, nullptr, 0);
  children_.clear();
  adopted_.clear();
}

std::vector<std::string> Supervisor::running() const {
  std::vector<std::string> out;
  for (const auto& [name, pid] : children_) out.push_back(name);
  for (const auto& [name, worker] : adopted_) out.push_back(name);
  std::sort(out.begin(), out.end());
  return out;
}

std::vector<std::pair<std::string, std::int64_t>> living_workers(const std::filesystem::path& run_directory) {
  std::vector<std::pair<std::string, std::int64_t>> out;
  std::error_code failure;
  for (const auto& entry : std::filesystem::directory_iterator(run_directory / "workers", failure)) {
    const int fd = open_worker(entry.path());
    if (fd < 0) continue;
    ::close(fd);
    const auto file = read_worker_file(entry.path());
    if (file) out.emplace_back(entry.path().filename().string(), file->pid);
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace starling::launcher
