#!/bin/bash
# Installs what Starling needs to build, run and be tested on Debian 12.
#
#   launcher/setup.sh
#
# Run it as often as you like: what is there already is left alone, and what an
# interrupted run left behind is replaced. It asks nothing. It needs root, or a
# sudo that asks for no password, but only while Debian packages are missing.
#
# Environment:
#   STARLING_TORCH_DIR   a LibTorch of your own (2.7 or newer, with include/ and
#                        lib/); none is downloaded then.
#   PIP_INDEX_URL, PIP_FIND_LINKS, HTTPS_PROXY, ... as pip reads them.
#
# LibTorch comes out of the Python wheels that launcher/libtorch.txt pins. Nothing
# of Python is used to run Starling: the wheels are only the archives that hold
# the libraries.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
deps=$root/.deps
pins=$root/launcher/libtorch.txt
torch_dir=$deps/libtorch
prometheus_dir=$deps/prometheus

# At the most, 1.1 GB while pip copies the wheels from its temporary folder, half of
# that in pip's cache, which may lie on the same disk; 0.5 GB stay.
torch_needs_mb=1700

# package              why
packages="
build-essential        the compiler, g++ 12
cmake                  the build
ninja-build            the build
pkg-config             finds the libraries below
git                    the commit in starling_build_info
ccache                 a second build is much faster
mold                   links the LibTorch binaries in a fraction of the time
unzip                  opens the wheels that hold LibTorch
python3-pip            downloads those wheels
libzmq3-dev            ZeroMQ: every byte between workers
cppzmq-dev             its C++ header
libsodium-dev          keys, signatures, hashes
libflatbuffers-dev     control messages on the wire
flatbuffers-compiler   their schema compiler
libexpected-dev        tl::expected, the base of Result
libfmt-dev             formatted text
libxxhash-dev          checksums of chunks
libyaml-cpp-dev        the run file
nlohmann-json3-dev     status, metrics.jsonl, events.jsonl
libboost-program-options-dev  the command line
prometheus-cpp-dev     metrics
libcpp-httplib-dev     serves metrics and status
libspdlog-dev          the log
libcurl4-openssl-dev   training data behind https
ca-certificates        whom to believe there
libsentencepiece-dev   SentencePiece models as tokenizers
libgtest-dev           tests
libgmock-dev           tests
librapidcheck-dev      property tests
libssl-dev             tests: a certificate for a server of their own
libbenchmark-dev       benchmarks
fortunes               real English to train on: the quickstart's text
"

say() { echo "setup: $*" >&2; }
die() {
  say "failed: $1"
  shift
  for line in "$@"; do say "  $line"; done
  exit 1
}

check_machine() {
  local id=unknown version=unknown name=unknown
  if [[ -r /etc/os-release ]]; then
    id=$(. /etc/os-release && echo "${ID:-unknown}")
    version=$(. /etc/os-release && echo "${VERSION_ID:-unknown}")
    name=$(. /etc/os-release && echo "${PRETTY_NAME:-unknown}")
  fi
  if [[ $id != debian || $version != 12 ]]; then
    die "expected Debian 12, found '$name' (ID=$id, VERSION_ID=$version)" \
      "use a Debian 12 machine, container or chroot:" \
      "debootstrap --variant=minbase bookworm /path/to/chroot makes one"
  fi
}

# Runs a command as root.
as_root() {
  if [[ $(id -u) == 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    die "Debian packages must be installed, and this user ($(id -un)) cannot do that" \
      "run launcher/setup.sh once as root, or allow this user to use sudo without a password"
  fi
}

apt() {
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@"
}

missing_packages() {
  local wanted
  wanted=$(awk 'NF { print $1 }' <<<"$packages")
  # dpkg-query fails for what it never heard of; the comparison finds those.
  # shellcheck disable=SC2086
  comm -13 \
    <(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' $wanted 2>/dev/null |
      awk '$1 == "ii" { print $2 }' | sort -u) \
    <(sort -u <<<"$wanted")
}

install_packages() {
  local missing
  missing=$(missing_packages)
  [[ -n $missing ]] || return 0
  changed=yes
  say "installing Debian packages: ${missing//$'\n'/ }"
  local advice=(
    "without a network: connect this machine, or name a mirror it reaches in /etc/apt/sources.list"
    "with a full disk: free about 1 GB under /usr and /var"
    "then run launcher/setup.sh again: it goes on where it stopped")
  # What an interrupted dpkg left half done.
  as_root env DEBIAN_FRONTEND=noninteractive dpkg --configure -a >&2 ||
    die "dpkg could not finish an earlier installation" "${advice[@]}"
  apt update >&2 || die "apt-get update failed (its own message is above)" "${advice[@]}"
  # shellcheck disable=SC2086
  apt install --no-install-recommends $missing >&2 ||
    die "apt-get install failed (its own message is above)" "${advice[@]}"
  missing=$(missing_packages)
  [[ -z $missing ]] || die "still missing after apt-get install: ${missing//$'\n'/ }" "${advice[@]}"
}

free_mb() { df -Pm "$1" | awk 'NR == 2 { print $4 }'; }

# A LibTorch of the user's own: new enough, and complete as far as can be seen.
check_own_torch() {
  local dir=$1 file version_file found=
  for file in lib/libc10.so lib/libtorch_cpu.so include/ATen/core/Tensor.h; do
    [[ -e $dir/$file ]] || die "STARLING_TORCH_DIR=$dir has no $file" \
      "it must name the folder of a LibTorch that holds include/ and lib/," \
      "or be unset: then one is downloaded"
  done
  for version_file in torch/headeronly/version.h torch/csrc/api/include/torch/version.h; do
    [[ -n $found ]] || found=$(awk '$2 == "TORCH_VERSION_MAJOR" && $3 ~ /^[0-9]+$/ { major = $3 }
      $2 == "TORCH_VERSION_MINOR" && $3 ~ /^[0-9]+$/ { minor = $3 }
      END { if (major != "") print major "." minor }' "$dir/include/$version_file" 2>/dev/null || true)
  done
  local major=${found%%.*} minor=${found##*.}
  if [[ -z $found ]] || ((major < 2 || (major == 2 && minor < 7))); then
    die "STARLING_TORCH_DIR=$dir: expected LibTorch 2.7 or newer, found version '${found:-unknown}'" \
      "name a newer one, or unset STARLING_TORCH_DIR: then one is downloaded"
  fi
}

# Says why pip failed, as far as its own words tell, and how to go on.
torch_did_not_come() {
  local tmp=$1 words=$2 reason advice
  if [[ $words == *"No space left on device"* ]]; then
    reason="the disk is full: $(free_mb "$deps") MB are free under $deps"
    advice=("free $torch_needs_mb MB there (and in pip's cache, ~/.cache/pip), and run launcher/setup.sh again")
  elif [[ $words == *"DO NOT MATCH THE HASHES"* ]]; then
    reason="what came is not what launcher/libtorch.txt pins"
    advice=("look at what serves Python packages to this machine (pip config list)")
  else
    reason="pip could not fetch it"
    advice=("connect this machine, or copy the files that launcher/libtorch.txt names into a folder and run"
      "PIP_NO_INDEX=1 PIP_FIND_LINKS=/that/folder launcher/setup.sh,"
      "or set STARLING_TORCH_DIR to a LibTorch that you have")
  fi
  tail -n 6 <<<"$words" >&2
  rm -rf "$tmp"
  die "LibTorch was not downloaded: $reason" "${advice[@]}"
}

torch_is_there() { cmp -s "$pins" "$torch_dir/pins.txt"; }

# Downloads and unpacks into a folder beside the final one, which is renamed when
# it is whole: a killed run leaves nothing that looks finished.
install_torch() {
  torch_is_there && return 0
  [[ $(uname -m) == x86_64 ]] || die "expected an x86_64 machine for the pinned LibTorch, found $(uname -m)" \
    "set STARLING_TORCH_DIR to a LibTorch for this machine"
  changed=yes
  # What a killed run left; its pip may still be writing there, so it may stay
  # until the next time.
  rm -rf "$torch_dir".tmp.* 2>/dev/null || true
  local tmp=$torch_dir.tmp.$$ free words
  free=$(free_mb "$deps")
  ((free >= torch_needs_mb)) || die "LibTorch needs $torch_needs_mb MB under $deps, and $free MB are free" \
    "free some space there, or set STARLING_TORCH_DIR to a LibTorch elsewhere"
  mkdir -p "$tmp/wheels" "$tmp/pip" "$tmp/libtorch/lib"
  say "downloading LibTorch: $(awk '/==/ { printf "%s%s", sep, $1; sep = ", " }' "$pins")"
  # (9>&-: should this script be killed, what it leaves running must not hold the
  # lock.) The platform is spelled out, so that the wheels do not depend on the python
  # that runs pip. TMPDIR: some machines have a small /tmp.
  # Its words are kept in memory: a full disk is one of the things it may report.
  words=$(TMPDIR=$tmp/pip /usr/bin/python3 -m pip download --quiet --no-input --disable-pip-version-check \
    --progress-bar off --retries 2 --no-deps --only-binary :all: --require-hashes \
    --python-version 3.11 --implementation cp --abi cp311 --abi none \
    --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 \
    --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
    -r "$pins" -d "$tmp/wheels" 2>&1 9>&-) || torch_did_not_come "$tmp" "$words"
  say "unpacking LibTorch into ${torch_dir#"$root"/}"
  {
    unzip -q "$tmp"/wheels/torch-*.whl 'torch/include/*' 'torch/lib/libc10.so' \
      'torch/lib/libtorch_cpu.so' 'torch/lib/libgomp.so*' -d "$tmp" &&
      mv "$tmp/torch/include" "$tmp/libtorch/" && mv "$tmp"/torch/lib/* "$tmp/libtorch/lib/" &&
      unzip -q -j "$tmp"/wheels/nvidia_cuda_runtime-*.whl '*/libcudart.so.*' -d "$tmp/libtorch/lib" &&
      unzip -q -j "$tmp"/wheels/nvidia_cuda_cupti-*.whl '*/libcupti.so.*' -d "$tmp/libtorch/lib" &&
      cp "$pins" "$tmp/libtorch/pins.txt"
  } >&2 9>&- || {
    rm -rf "$tmp"
    die "LibTorch could not be unpacked; $(free_mb "$deps") MB are free under $deps" \
      "free $torch_needs_mb MB there and run launcher/setup.sh again"
  }
  rm -rf "$torch_dir"
  mv -T "$tmp/libtorch" "$torch_dir"
  rm -rf "$tmp"
}

download_prometheus() { apt-get -q -o APT::Sandbox::User=root download prometheus; }

prometheus_is_there() { [[ -x $prometheus_dir/promtool && -x $prometheus_dir/prometheus ]]; }

# Two programs of Debian's prometheus package, which a test runs against a real run.
# The package itself is not installed: it would start a service on this machine.
install_prometheus() {
  prometheus_is_there && return 0
  changed=yes
  say "unpacking promtool and prometheus, for tests, into ${prometheus_dir#"$root"/}"
  rm -rf "$prometheus_dir".tmp.* 2>/dev/null || true
  local tmp=$prometheus_dir.tmp.$$
  mkdir -p "$tmp"
  {
    (cd "$tmp" && { download_prometheus || { apt update && download_prometheus; }; }) &&
      dpkg-deb --fsys-tarfile "$tmp"/prometheus_*.deb |
      tar -x -C "$tmp" --strip-components=3 ./usr/bin/prometheus ./usr/bin/promtool &&
      rm "$tmp"/prometheus_*.deb
  } >&2 9>&- || {
    rm -rf "$tmp"
    die "Debian's prometheus package could not be fetched or unpacked; $(free_mb "$deps") MB are free under $deps" \
      "connect this machine, or free 200 MB there, and run launcher/setup.sh again"
  }
  rm -rf "$prometheus_dir"
  mv -T "$tmp" "$prometheus_dir"
}

main() {
  changed=no
  check_machine
  install_packages
  if [[ -n ${STARLING_TORCH_DIR:-} ]]; then
    check_own_torch "$STARLING_TORCH_DIR"
  fi
  if ! torch_is_there || ! prometheus_is_there; then
    mkdir -p "$deps"
    # One at a time; the lock goes with the process.
    exec 9>"$deps/lock"
    flock 9
    [[ -n ${STARLING_TORCH_DIR:-} ]] || install_torch
    install_prometheus
  fi
  if [[ $changed == yes ]]; then
    say "done: all packages are installed, LibTorch is in ${STARLING_TORCH_DIR:-$torch_dir}"
  else
    say "nothing to do: all packages are installed, LibTorch is in ${STARLING_TORCH_DIR:-$torch_dir}"
  fi
}

main "$@"
