# Sourced by .ci/run and .ci/full: how a step runs, what it leaves behind, what the machine must have.

export CI=true LC_ALL=C
exec </dev/null
umask 022

work=$(mktemp -d "${TMPDIR:-/tmp}/layercache-ci.XXXXXX")
bin=$work/bin
mkdir "$bin"
started=$SECONDS
step=''
step_started=0
nobody_tmp='' # see step_nobody
report=() # one "name|seconds|verdict" per step

say() { printf '\n== %s\n' "$*"; }
die() { printf 'ci: %s\n' "$*" >&2; exit 1; }

# run_step NAME COMMAND...: the command is called plainly, not in a condition, so that `set -e` holds inside of it.
# With ledger set, a file, a step that it says was passed is not run again, and those that pass are added to it with their commit.
run_step() {
  local passed=''
  step=$1
  step_started=$SECONDS
  say "$step"
  if [ -n "${ledger:-}" ] && [ -e "$ledger" ] && [ "$step" != prepare ]; then
    passed=$(sed -n "s/^$step|/$step|/p" "$ledger" | tail -n 1)
  fi
  if [ -n "$passed" ]; then
    report+=("$passed")
    printf '== %s: passed before\n' "$step"
    step=''
    return
  fi
  shift
  "$@"
  report+=("$step|$((SECONDS - step_started))|ok at $(git -c safe.directory='*' rev-parse --short HEAD)")
  if [ -n "${ledger:-}" ]; then printf '%s\n' "${report[-1]}" >>"$ledger"; fi
  printf '== %s: ok, %d s\n' "$step" $((SECONDS - step_started))
  step=''
}

# finish CODE: tells which step failed, prints the durations, removes what was made. on_finish is a hook of .ci/full.
finish() {
  local code=$1 row
  trap - EXIT
  if [ -n "$step" ]; then
    report+=("$step|$((SECONDS - step_started))|FAILED")
    [ "$code" -ne 0 ] || code=1
  fi
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
    printf 'ci: FAIL%s, %d s\n' "${step:+ in step \"$step\"}" $((SECONDS - started)) >&2
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
