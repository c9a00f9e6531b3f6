#include "trainer/data/file_pattern.h"

#include <fmt/format.h>
#include <glob.h>

#include <algorithm>

namespace starling::trainer {

bool is_pattern(const std::string& path) { return path.find_first_of("*?[") != std::string::npos; }

Result<std::vector<std::filesystem::path>> matching_files(const std::string& pattern) {
  glob_t found{};
  const int status = ::glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found);
  std::vector<std::filesystem::path> out;
  if (status == 0) out.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  if (status != 0 && status != GLOB_NOMATCH) {
    return fail(ErrorCode::io, fmt::format("{}: the files of this pattern cannot be listed", pattern));
  }
  std::sort(out.begin(), out.end());
  return out;
}

}  // namespace starling::trainer
