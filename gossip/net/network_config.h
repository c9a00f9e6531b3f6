// The section network of the run file.
#pragma once

#include <string>
#include <vector>

namespace starling::net {

struct NetworkConfig {
  std::string listen = "tcp://0.0.0.0:29400";  // port p: control p, bulk p + 1, lobby p + 2; 0: any free ones
  std::string advertise = "auto";              // host that others dial; auto: the address of the default route
  bool listen_is_default = true;               // a default port that is taken moves on; one the user set is an error

  std::vector<std::string> validate() const;
};

}  // namespace starling::net
