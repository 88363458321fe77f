# Sourced by .ci/run and .ci/full: how a step runs, what it leaves behind, what the machine must have.

export CI=true LC_ALL=C
exec </dev/null
umask 022

work=$(mktemp -d "${TMPDIR:-/tmp}/layercache-ci.XXXXXX")
bin=$work/bin
mkdir "$bin"
: >"$work/report" # one "name|seconds|verdict" per step
: >"$work/queue"
started=$SECONDS
step=''
step_started=0
workers=() # process groups of run_together
nobody_tmp='' # see step_nobody
report=() # the lines of $work/report, for on_finish

say() { printf '\n== %s\n' "$*"; }
die() { printf 'ci: %s\n' "$*" >&2; exit 1; }

# run_step NAME COMMAND...: the command is called plainly, not in a condition, so that `set -e` holds inside of it.
# With ledger set, a file, a step that it says was passed is not run again, and those that pass are added to it with their commit.
run_step() {
  local passed='' row
  step=$1
  step_started=$SECONDS
  say "$step"
  if [ -n "${ledger:-}" ] && [ -e "$ledger" ] && [ "$step" != prepare ]; then
    passed=$(sed -n "s/^$step|/$step|/p" "$ledger" | tail -n 1)
  fi
  if [ -n "$passed" ]; then
    printf '%s\n' "$passed" >>"$work/report"
    printf '== %s: passed before\n' "$step"
    step=''
    return
  fi
  shift
  "$@"
  row="$step|$((SECONDS - step_started))|ok at $(git -c safe.directory='*' rev-parse --short HEAD)"
  printf '%s\n' "$row" >>"$work/report"
  if [ -n "${ledger:-}" ]; then printf '%s\n' "$row" >>"$ledger"; fi
  printf '== %s: ok, %d s\n' "$step" $((SECONDS - step_started))
  step=''
}

# run_together N: runs what is in $work/queue, a "NAME COMMAND..." per line, N at a time: the tests of one package, of which some take minutes, are
# mostly run one after the other, and leave processors idle. What a step prints is shown when it has ended. After a failure no step begins.
run_together() {
  local i pid failed=''
  set -m # a process group for each, so that finish can end what they have started
  for ((i = 0; i < $1; i++)); do
    worker &
    workers+=($!)
  done
  set +m
  for pid in "${workers[@]}"; do wait "$pid" || failed=yes; done
  workers=()
  [ -z "$failed" ] || exit 1
}

worker() {
  local words
  exec 3>&1 # where a step that fails has not redirected it
  trap 'worker_ends $?' EXIT
  while read -ra words < <(take) && [ "${#words[@]}" -gt 0 ]; do
    run_step "${words[@]}" >"$work/${words[0]}.log" 2>&1
    show "${words[0]}"
  done
}

# take prints the next line of the queue and removes it.
take() (
  flock 9
  head -n 1 "$work/queue"
  sed -i 1d "$work/queue"
) 9>"$work/lock"

show() (
  flock 9
  cat "$work/$1.log" >&3
) 9>"$work/lock"

# worker_ends CODE: a step that failed is shown, and is the last.
worker_ends() {
  trap - EXIT
  if [ -n "$step" ]; then
    (flock 9 && : >"$work/queue") 9>"$work/lock"
    show "$step"
    printf '%s\n' "$step|$((SECONDS - step_started))|FAILED" >>"$work/report"
  fi
  if [ -n "$nobody_tmp" ]; then chmod -R u+w "$nobody_tmp" && rm -rf "$nobody_tmp"; fi
  exit "$1"
}

# finish CODE: tells which step failed, prints the durations, removes what was made. on_finish is a hook of .ci/full.
finish() {
  local code=$1 row pid failed
  trap - EXIT
  trap '' INT TERM # it is ending already
  for pid in ${workers[@]+"${workers[@]}"}; do
    kill -TERM -- "-$pid" 2>/dev/null || true
    wait "$pid" || true
  done
  if [ -n "$step" ]; then
    printf '%s\n' "$step|$((SECONDS - step_started))|FAILED" >>"$work/report"
    [ "$code" -ne 0 ] || code=1
  fi
  mapfile -t report <"$work/report"
  failed=$(sed -n 's/^\([^|]*\)|.*|FAILED$/\1/p' "$work/report" | paste -sd ' ')
  printf '\n'
  for row in "${report[@]}"; do
    IFS='|' read -r name seconds verdict <<<"$row"
    printf '%-12s %5d s  %s\n' "$name" "$seconds" "$verdict"
  done
  chmod -R u+w "$work" ${nobody_tmp:+"$nobody_tmp"} && rm -rf "$work" ${nobody_tmp:+"$nobody_tmp"}
  if declare -F on_finish >/dev/null; then on_finish "$code"; fi
  if [ "$code" -eq 0 ]; then
    printf 'ci: PASS, %d steps, %d s\n' "${#report[@]}" $((SECONDS - started))
  else
    printf 'ci: FAIL%s, %d s\n' "${failed:+ in step \"$failed\"}" $((SECONDS - started)) >&2
  fi
  exit "$code"
}
trap 'finish $?' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# need COMMAND PACKAGE...: installs Debian packages when a command is not there.
need() {
  local cmd=$1
  shift
  command -v "$cmd" >/dev/null && return
  command -v apt-get >/dev/null || die "$cmd is missing, and there is no apt-get to install $* with"
  printf 'ci: installing %s\n' "$*"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
  command -v "$cmd" >/dev/null || die "$cmd is still missing after installing $*"
}

# roomy DIR: whether the directory can take 2 GiB.
roomy() { [ -w "$1" ] && [ "$(df --output=avail -k "$1" | tail -n 1)" -gt $((2 << 20)) ]; }

# in_memory COMMAND...: runs it with temporary files in memory, where they fit. What it runs is about logic, and about processes
# that are killed, which loses nothing that a file in memory holds; it makes and removes directories by the thousand.
in_memory() (
  if roomy /dev/shm; then
    TMPDIR=$(mktemp -d /dev/shm/layercache-ci.XXXXXX)
    chmod 711 "$TMPDIR" # for what a test does as user nobody
    export TMPDIR
    trap 'chmod -R u+w "$TMPDIR" && rm -rf "$TMPDIR"' EXIT
  fi
  "$@"
)

# modules lists the directories of all modules, the root first.
modules() {
  find . -name go.mod -not -path '*/testdata/*' -not -path './.git/*' -printf '%h\n' | sort
}
