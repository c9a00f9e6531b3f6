# The rules of check.sh, in plain POSIX awk.
#
# One pass over all lines judges includes and calls and remembers who includes
# whom; the end follows the includes of each decider.

BEGIN {
  read_tables()
  # Rule names are those of the CALLS file. B and E are the edges before and after
  # a name, which POSIX awk has no sign for.
  B = "(^|[^A-Za-z0-9_])"
  E = "([^A-Za-z0-9_]|$)"
  call["now"] = "::now[ ]*\\(|" B "(clock_gettime|gettimeofday|timespec_get)[ ]*\\(|" \
                B "(std::)?time[ ]*\\([ ]*(nullptr|NULL|0)[ ]*\\)"
  call["random"] = B "random_device" E "|" B "s?rand[ ]*\\(|" B "getrandom[ ]*\\("
  call["sleep"] = B "(sleep_for|sleep_until|usleep|nanosleep|clock_nanosleep|sleep)[ ]*\\("
  call["thread"] = B "std::(thread|jthread|async)([^A-Za-z0-9_:]|$)|" B "pthread_create[ ]*\\("
  call["getenv"] = B "(secure_)?getenv[ ]*\\("
  instead["now"] = "time comes from Clock, or goes in with the event"
  instead["random"] = "random numbers come from a named stream of the run's seed"
  instead["sleep"] = "nothing sleeps: a deadline is an event"
  instead["thread"] = "threads are started in one place"
  instead["getenv"] = "the environment is read in one place"
  seam["gossip/base/env.h"] = 1
  seam["gossip/net/transport.h"] = 1
  violations = 0
}

function complain(file, line, text) {
  printf "%s:%d: %s\n", file, line, text
  violations++
}

function read_tables(   text, part) {
  while ((getline text < layers) > 0) {
    split(text, part, " ")
    may_use[part[1], part[2]] = 1
    is_layer[part[1]] = 1
  }
  while ((getline text < calls) > 0) {
    sub(/#.*/, "", text)
    if (split(text, part, " ") >= 2) allowed[++allowed_count] = part[1] " " part[2]
  }
  while ((getline text < deciders) > 0) {
    sub(/#.*/, "", text)
    if (split(text, part, " ") >= 1) decider[++decider_count] = part[1]
  }
}

# gossip/net/bulk.h -> gossip_net; tests/... and examples/... -> test; "" for what
# is not ours.
function layer_of(path,   part, count, name) {
  count = split(path, part, "/")
  if (part[1] == "tests" || part[1] == "examples") return "test"
  if (count >= 2 && part[1] in is_layer) return part[1]
  name = part[1] "_" part[2]
  if (count >= 3 && name in is_layer) return name
  return ""
}

function begins_with(text, prefix) { return substr(text, 1, length(prefix)) == prefix }

function sees_torch(path) {
  return begins_with(path, "trainer/torch/") || begins_with(path, "tests/trainer/torch/") || \
         begins_with(path, "tests/bench/trainer/torch/")
}

function call_allowed(rule, path,   i) {
  for (i = 1; i <= allowed_count; ++i) {
    if (begins_with(allowed[i], rule " ") && begins_with(path, substr(allowed[i], length(rule) + 2))) return 1
  }
  return 0
}

# The line without comments and without what stands between quotes. `in_comment`
# goes from line to line; raw strings are known by their R" and end with )".
function code_of(line,   out, i, c, two) {
  out = ""
  for (i = 1; i <= length(line); ++i) {
    c = substr(line, i, 1)
    two = substr(line, i, 2)
    if (in_comment) {
      if (two == "*/") { in_comment = 0; ++i }
    } else if (in_raw) {
      if (substr(line, i, length(raw_end)) == raw_end) { in_raw = 0; i += length(raw_end) - 1 }
    } else if (two == "//") {
      return out
    } else if (two == "/*") {
      in_comment = 1; ++i
    } else if (two == "R\"" && (i == 1 || substr(line, i - 1, 1) !~ /[A-Za-z0-9_]/)) {
      in_raw = 1
      raw_end = substr(line, i + 2)
      raw_end = ")" substr(raw_end, 1, index(raw_end, "(") - 1) "\""
      out = out "\"\""
      i += 2
    } else if (c == "\"" || (c == "'" && substr(line, i - 1, 1) !~ /[0-9A-Fa-f]/)) {
      # A quote after a digit separates digits: 1'000.
      for (++i; i <= length(line) && substr(line, i, 1) != c; ++i) if (substr(line, i, 1) == "\\") ++i
      out = out c c
    } else {
      out = out c
    }
  }
  return out
}

function judge_include(file, line, header,   user, used) {
  if (header ~ /^(torch|ATen|c10|caffe2)\// && !sees_torch(file)) {
    complain(file, line, "includes <" header ">: LibTorch is for trainer/torch only")
    return
  }
  user = layer_of(file)
  used = layer_of(header)
  if (used == "") return
  if (user == "") {
    complain(file, line, "this folder belongs to no layer")
  } else if (!((user, used) in may_use)) {
    complain(file, line, "includes " header " against the direction of the layers: " user " may not use " used)
  }
  edge_count[file]++
  edge[file, edge_count[file]] = header
  edge_line[file, edge_count[file]] = line
}

FNR == 1 {
  in_comment = 0
  in_raw = 0
  exists[FILENAME] = 1
}

{
  if (!in_comment && !in_raw && match($0, /^[ \t]*#[ \t]*include[ \t]*["<][^">]+[">]/)) {
    header = substr($0, RSTART, RLENGTH)
    sub(/^[ \t]*#[ \t]*include[ \t]*["<]/, "", header)
    sub(/[">]$/, "", header)
    judge_include(FILENAME, FNR, header)
    next
  }
  code = code_of($0)
  if (code == "") next
  # A clock's own `now`, defined outside its class, is not a call.
  gsub(/::now\(\)[ ]*const/, "", code)
  for (rule in call) {
    if (code ~ call[rule] && !call_allowed(rule, FILENAME)) {
      complain(FILENAME, FNR, "forbidden call (" rule "): " instead[rule])
    }
  }
}

# Whether `file` reaches a seam by includes; `chain` is how.
function reaches_seam(file,   i, next_file) {
  if (file in seam) { chain = file; return 1 }
  if (file in visited) return 0
  visited[file] = 1
  for (i = 1; i <= edge_count[file]; ++i) {
    next_file = edge[file, i]
    if (reaches_seam(next_file)) { chain = file " -> " chain; return 1 }
  }
  return 0
}

# `own_header` was judged by itself.
function judge_decider(file, own_header,   i) {
  for (i = 1; i <= edge_count[file]; ++i) {
    if (edge[file, i] == own_header) continue
    split("", visited)
    if (reaches_seam(edge[file, i])) {
      complain(file, edge_line[file, i], "a decider sees a seam to the world: " file " -> " chain)
    }
  }
}

END {
  for (i = 1; i <= decider_count; ++i) {
    if (!((decider[i] ".h") in exists)) {
      complain(decider[i] ".h", 0, "is listed as a decider and does not exist")
      continue
    }
    judge_decider(decider[i] ".h", "")
    if ((decider[i] ".cc") in exists) judge_decider(decider[i] ".cc", decider[i] ".h")
  }
  exit violations > 0
}
