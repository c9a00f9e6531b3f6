#include "launcher/supervisor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace starling::launcher {

Status Supervisor::start(const std::string& name, const std::vector<std::string>& arguments,
                         const std::filesystem::path& log) {
  std::error_code failure;
  std::filesystem::create_directories(log.parent_path(), failure);
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

std::vector<std::pair<std::string, int>> Supervisor::reap() {
  std::vector<std::pair<std::string, int>> ended;
  for (auto it = children_.begin(); it != children_.end();) {
    int status = 0;
    if (::waitpid(it->second, &status, WNOHANG) != it->second) {
      ++it;
      continue;
    }
    ended.emplace_back(it->first, WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status));
    it = children_.erase(it);
  }
  return ended;
}

Status Supervisor::send_signal(const std::string& name, int signal) {
  const auto it = children_.find(name);
  if (it == children_.end()) return fail(ErrorCode::not_found, "worker '" + name + "' does not run here");
  if (::kill(it->second, signal) != 0) return fail(ErrorCode::io, std::strerror(errno));
  return {};
}

void Supervisor::kill_rest() {
  for (const auto& [name, pid] : children_) ::kill(pid, SIGKILL);
  for (const auto& [name, pid] : children_) ::waitpid(pid, nullptr, 0);
  children_.clear();
}

std::vector<std::string> Supervisor::running() const {
  std::vector<std::string> out;
  for (const auto& [name, pid] : children_) out.push_back(name);
  return out;
}

}  // namespace starling::launcher
