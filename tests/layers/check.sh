#!/bin/bash
# Refuses what the compiler cannot: an include against the direction of the
# layers, LibTorch outside trainer/torch, the seams to the world in a decider, and
# calls that would make a decision depend on more than its inputs.
#
#   check.sh ROOT LAYERS CALLS DECIDERS
#
#   LAYERS    lines "user used": the pairs of layers for which an include is
#             allowed. CMake writes it from the table that it checks links with,
#             so that there is one table.
#   CALLS     lines "rule path-prefix": the one place for each kind of call.
#   DECIDERS  lines "path without its ending".
#
# Prints one line "file:line: what is wrong" for each violation, ends with 1 if
# there was any, and with 2 when it cannot do its work.
#
# It reads text, not C++: comments and string literals are taken out first, and
# then lines are matched. A call hidden in a macro escapes it; reviewers do not.
set -euo pipefail
export LC_ALL=C

if (($# != 4)); then
  echo "usage: check.sh ROOT LAYERS CALLS DECIDERS" >&2
  exit 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
for file in "$2" "$3" "$4"; do
  [[ -r $file ]] || { echo "check.sh: cannot read $file" >&2; exit 2; }
done
layers=$(realpath "$2") calls=$(realpath "$3") deciders=$(realpath "$4")
cd "$1"

folders=()
for folder in gossip metrics pipeline trainer launcher examples tests; do
  [[ -d $folder ]] && folders+=("$folder")
done
if ((${#folders[@]} == 0)); then
  echo "check.sh: $1 has none of the source folders" >&2
  exit 2
fi
mapfile -t sources < <(find "${folders[@]}" -name '*.h' -o -name '*.cc' | sort)
if ((${#sources[@]} == 0)); then
  echo "check.sh: $1 has no sources" >&2
  exit 2
fi
exec awk -v layers="$layers" -v calls="$calls" -v deciders="$deciders" \
  -f "$here/check.awk" "${sources[@]}"
