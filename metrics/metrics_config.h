// The sections logging and http of the run file.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace starling::metrics {

struct LoggingConfig {
  std::int64_t log_interval = 10;  // steps
  bool tensorboard = true;
  bool jsonl = true;

  std::vector<std::string> validate() const;
};

struct HttpConfig {
  std::string listen = "127.0.0.1:9464";  // host:port; 0: any free port
  bool listen_is_default = true;          // a default port that is taken moves on; one the user set is an error

  std::vector<std::string> validate() const;
};

}  // namespace starling::metrics
